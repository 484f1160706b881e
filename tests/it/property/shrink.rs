//! Makes a failing case smaller for as long as it fails.

use super::case::{Batch, Case, Op};

/// Most cases tried on the way. Each takes a second or less.
const TRIES_MAX: usize = 400;

/// Returns the smallest case found for which `fails` says why, with what it says.
pub async fn shrunk(
    mut case: Case,
    mut why: String,
    fails: impl AsyncFn(&Case) -> Option<String>,
) -> (Case, String) {
    let mut tries = 0;
    loop {
        let mut smaller = None;
        for candidate in candidates(&case) {
            if tries == TRIES_MAX {
                return (case, why);
            }
            tries += 1;
            if let Some(said) = fails(&candidate).await {
                smaller = Some((candidate, said));
                break;
            }
        }
        match smaller {
            Some(found) => (case, why) = found,
            None => return (case, why),
        }
    }
}

/// Cases with something left out, the largest pieces first.
fn candidates(case: &Case) -> Vec<Case> {
    let mut found = Vec::new();
    if case.playbooks.len() > 1 {
        for &only in &case.playbooks {
            let mut one = case.clone();
            one.playbooks = vec![only];
            // Runs of a playbook that is not there are left out; those of this one are runs of all.
            let here = case.playbooks.iter().position(|&place| place == only);
            one.ops.retain_mut(|op| match op {
                Op::Run(run) if run.playbook.is_some() => {
                    let kept = run.playbook == here;
                    run.playbook = None;
                    kept
                }
                _ => true,
            });
            found.push(one);
        }
    }
    let mut piece = case.ops.len() / 2;
    while piece > 0 {
        for from in (0..case.ops.len()).step_by(piece) {
            let mut less = case.clone();
            less.ops.drain(from..(from + piece).min(case.ops.len()));
            found.push(less);
        }
        piece /= 2;
    }
    for (at, op) in case.ops.iter().enumerate() {
        let with = |op: Op| {
            let mut less = case.clone();
            less.ops[at] = op;
            less
        };
        match op {
            Op::Land { batch, events } if events.len() > 1 => {
                for out in 0..events.len() {
                    let mut events = events.clone();
                    events.remove(out);
                    found.push(with(Op::Land {
                        batch: *batch,
                        events,
                    }));
                }
            }
            Op::Run(run) if run.stop_after.is_some() => {
                let mut run = run.clone();
                run.stop_after = None;
                found.push(with(Op::Run(run)));
            }
            Op::Run(run) if run.max_batches.is_some() => {
                let mut run = run.clone();
                run.max_batches = None;
                found.push(with(Op::Run(run)));
            }
            _ => {}
        }
    }
    let simpler = [
        |case: &mut Case| case.batch = Batch::Column,
        |case: &mut Case| case.batch_index = true,
        |case: &mut Case| case.key_indexes = true,
        |case: &mut Case| case.own_manifests = false,
        |case: &mut Case| case.settle_minutes = None,
        |case: &mut Case| case.until = false,
        |case: &mut Case| case.freeze_days = None,
        |case: &mut Case| case.retain_hours = None,
    ];
    for simplify in simpler {
        let mut simple = case.clone();
        simplify(&mut simple);
        if simple != *case {
            found.push(simple);
        }
    }
    found
}
