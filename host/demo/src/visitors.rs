//! Who comes, and how often. Hides that no visitor is remembered: who has the n-th session of a
//! class is arithmetic, and what a visitor is like is drawn anew from the visitor's own sequence.
//!
//! Each class of [`VISITOR_CLASSES`] has a number of seats. Its sessions go round all seats; in
//! each round the order is another one, within either half of the seats, so that two visits of one
//! visitor are between a half and one and a half rounds apart. After their number of sessions a
//! visitor leaves the seat to a new one. Seats start at different points of that cycle, so that
//! visitors come and go all the time, and some were there before the stream.

use uuid::Uuid;

use crate::catalogue::Catalogue;
use crate::dice::Dice;
use crate::shares::{
    HOUR_MS, SESSION_ROWS_MEAN, VISITOR_CLASSES, VISITOR_CLOCK_WRONG_PER_100K,
    VISITOR_NO_NETWORK_ID_PER_100K, VISITOR_WITH_USER_PER_100K,
};

/// Sequences of [`Dice`] by purpose; 0 is the stream's own.
const ROUND_DICE: u64 = 1 << 62;
const VISITOR_DICE: u64 = 1 << 63;
const SEATS_MAX: u64 = 1 << 28;

#[derive(Debug)]
pub(crate) struct Visitors {
    seed: u64,
    classes: [Class; VISITOR_CLASSES.len()],
}

#[derive(Debug, Clone, Copy)]
struct Class {
    /// A power of two.
    seats: u64,
    sessions_so_far: u64,
}

/// A visitor at one of their sessions.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Visitor {
    pub(crate) domain_userid: Uuid,
    pub(crate) network_userid: Option<Uuid>,
    pub(crate) user: Option<User>,
    /// 1 for the visitor's first session.
    pub(crate) session_index: u32,
    pub(crate) device: usize,
    pub(crate) country: usize,
    /// Device time minus true time.
    pub(crate) clock_error_ms: i64,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) id: String,
    /// The session in which the user logs in, after its first page.
    pub(crate) known_from_session: u32,
}

impl Visitors {
    /// Visitors enough for a stream of that many events a day.
    pub(crate) fn new(seed: u64, events_per_day: u64) -> Self {
        let sessions_per_day = events_per_day / SESSION_ROWS_MEAN / VISITOR_CLASSES.len() as u64;
        let classes = VISITOR_CLASSES.map(|(_, hours_between)| {
            let seats = sessions_per_day * u64::from(hours_between) / 24;
            Class {
                seats: seats.clamp(2, SEATS_MAX).next_power_of_two(),
                sessions_so_far: 0,
            }
        });
        Self { seed, classes }
    }

    /// The visitor who begins the next session.
    pub(crate) fn next(&mut self, dice: &mut Dice, catalogue: &Catalogue) -> Visitor {
        let class = dice.index(VISITOR_CLASSES.len());
        let seats = self.classes[class].seats;
        let nth = self.classes[class].sessions_so_far;
        self.classes[class].sessions_so_far += 1;

        let (round, place) = (nth / seats, nth % seats);
        let shuffle = Dice::new(self.seed, ROUND_DICE | (class as u64) << 56 | round).bits();
        let seat = place ^ (u64::from(shuffle) & (seats / 2 - 1));

        let sessions = u64::from(VISITOR_CLASSES[class].0);
        let step = round + seat % sessions;
        let generation = step / sessions;
        let session_index = (step % sessions) as u32 + 1;
        self.visitor(class, seat, generation, session_index, catalogue)
    }

    fn visitor(
        &self,
        class: usize,
        seat: u64,
        generation: u64,
        session_index: u32,
        catalogue: &Catalogue,
    ) -> Visitor {
        let number = (class as u64) << 60 | (generation & 0xffff_ffff) << 28 | seat;
        let mut own = Dice::new(self.seed, VISITOR_DICE | number);
        let domain_userid = own.uuid();
        let network_userid = own.uuid();
        let user_id = own.uuid();
        Visitor {
            domain_userid,
            network_userid: (!own.chance(VISITOR_NO_NETWORK_ID_PER_100K)).then_some(network_userid),
            user: own.chance(VISITOR_WITH_USER_PER_100K).then(|| User {
                id: format!("user-{:012x}", user_id.as_u128() >> 80),
                known_from_session: 1 + own.below(VISITOR_CLASSES[class].0),
            }),
            session_index,
            device: own.popular(catalogue.devices.len()),
            country: own.popular(catalogue.countries.len()),
            clock_error_ms: if own.chance(VISITOR_CLOCK_WRONG_PER_100K) {
                own.between(-HOUR_MS, HOUR_MS)
            } else {
                own.between(-2_000, 2_000)
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn sessions_of_a_visitor_count_up_one_by_one() {
        let catalogue = Catalogue::new();
        let mut dice = Dice::new(3, 0);
        let mut visitors = Visitors::new(3, 20_000);
        let mut last: HashMap<Uuid, Visitor> = HashMap::new();
        let (mut returning, mut new) = (0, 0);
        for _ in 0..20_000 {
            let visitor = visitors.next(&mut dice, &catalogue);
            let Some(before) = last.get(&visitor.domain_userid) else {
                new += usize::from(visitor.session_index == 1);
                last.insert(visitor.domain_userid, visitor);
                continue;
            };
            returning += 1;
            assert_eq!(visitor.session_index, before.session_index + 1);
            assert_eq!(
                (visitor.device, &visitor.user),
                (before.device, &before.user)
            );
            last.insert(visitor.domain_userid, visitor);
        }
        assert!(returning > 10_000, "{returning} returning");
        assert!(new > 3_000, "{new} new");
        // Zipf-like: many come once, few come often.
        let often = last
            .values()
            .filter(|visitor| visitor.session_index >= 64)
            .count();
        assert!(
            (5..last.len() / 20).contains(&often),
            "{often} of {}",
            last.len()
        );
    }
}
