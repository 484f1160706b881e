//! One loop of faults for every workflow: at each step of the protocol in turn something breaks, then one plain run
//! must make everything right, and nobody who reads may have noticed.
//!
//! A new workflow gives a database with work to do, its table with the key, and how many states its readers may see.
//! The loop does the rest:
//!
//! 1. A run without a fault counts the points between program and server ([`crate::proxy`]). A reader looks between any
//!    two of them: what it sees is what readers may see, and must be as many states as were announced.
//! 2. For each point k everything is put back, and a run breaks at k in one of the ways of [`Fault`]. What the program
//!    says about the state in which it left the tables must be true.
//! 3. One plain run. Then the table equals a rebuild, the manifest is right, and the journal has every commit once.
//!
//! All the while a reader polls, in transactions that see one snapshot twice: it may see the states of the first step and
//! no other, so no key is ever missing or doubled, nor rows and manifest apart.

use std::collections::BTreeSet;
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use stepwell_warehouse::{AnswerLimits, Session, Target, WarehouseError};
use tokio::runtime::Handle;

use crate::harness::Db;
use crate::program::{Ended, Program};
use crate::proxy::{Point, Proxy, Sender, Verdict};

/// How long a program may take, before it is taken for one that hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The host gets a SIGKILL, and what it was sending is lost.
    Kill,
    /// The host gets a SIGINT.
    Interrupt,
    /// The connection is closed: what is asked at an even point never arrives, what is answered is done and not known.
    Cut,
    /// The server ends the session.
    Terminate,
    /// The host stands still until another run took over, which this one lets it do after a second, and then goes on.
    Suspend,
    /// The server stops as in a crash, and starts again.
    Restart,
}

/// A workflow and what it has to do.
pub struct Drill {
    pub db: Db,
    /// The workflow's file in the repository.
    pub workflow: &'static str,
    /// What stands in its text, and what is to stand there instead.
    pub edits: &'static [(&'static str, &'static str)],
    /// Its derived table, and the columns of the key there.
    pub table: &'static str,
    pub key: &'static str,
    /// More arguments of the run that breaks.
    pub args: &'static [&'static str],
    /// States that readers may see, the first and the last one included: one more than there are commits.
    pub states: usize,
    /// What breaks, each at one in so many points, and at all on which everything hangs; see [`chosen`].
    pub faults: Vec<(Fault, usize)>,
    /// Stops the server as in a crash and starts it again, for [`Fault::Restart`].
    pub restart: Restart,
    /// Steps at which a run tries to go on before the plain one, one after another at each fault.
    pub from: &'static [&'static str],
}

/// Restarts a server.
pub type Restart = Arc<dyn Fn() + Send + Sync>;

/// Returns the points at which a drill breaks something: every one with `STEPWELL_FAULTS=all` in the environment, and
/// otherwise those of the transactions that change what readers see, of the lease and of the end, and one in `every` of
/// all others.
///
/// To the server a host that dies before it sends is one that died after the answer before that; so a kill or a signal
/// is told apart by the answers alone. What follows a statement in the extended protocol (bind, close) changes nothing.
fn chosen(points: &[Point], fault: Fault, every: usize) -> Vec<usize> {
    if std::env::var_os("STEPWELL_FAULTS").is_some_and(|value| value == "all") {
        return (0..points.len()).collect();
    }
    let mut swapping = false;
    let weighty = points.iter().map(|point| {
        let begins = |words: &[&str]| words.iter().any(|words| point.what.starts_with(words));
        let swaps = [
            "DELETE FROM derived.",
            "INSERT INTO derived.",
            "CREATE TABLE derived.",
        ];
        swapping |= begins(&swaps);
        let weighty = swapping || begins(&["INSERT INTO stepwell.leases", "WITH finished"]);
        swapping &= !(begins(&["SELECT 1; COMMIT"]) && point.sender == Sender::Server);
        weighty
    });
    let tells = |(point, _): &(&Point, bool)| match fault {
        Fault::Kill | Fault::Interrupt | Fault::Suspend => {
            point.sender == Sender::Server && point.what != "bind"
        }
        // A server that waits for a login does not stop at once.
        Fault::Restart => point.what != "bind" && point.backend.is_some(),
        _ => point.what != "bind",
    };
    let telling = points.iter().zip(weighty).filter(tells).enumerate();
    let chosen = telling.filter(|(at, (_, weighty))| at % every == 0 || *weighty);
    chosen.map(|(_, (point, _))| point.number).collect()
}

/// What the loop works with.
struct Loop {
    drill: Drill,
    proxy: Proxy,
    program: Program,
    file: String,
    looks: Arc<Looks>,
    allowed: BTreeSet<String>,
    before: String,
    after: String,
    /// How many runs went on, and how many were refused.
    went_on: usize,
    refused: usize,
}

impl Drill {
    /// Does it all.
    pub async fn run(self) {
        let looks = Arc::new(Looks::new(&self).await);
        let proxy = Proxy::new(&self.db.socket_directory());
        let program = Program::new(&self.db);
        let text = crate::harness::read(self.workflow);
        let text = self.edits.iter().fold(text, |text, (from, to)| {
            assert!(text.contains(from), "no {from} in {}", self.workflow);
            text.replace(from, to)
        });
        let url = self.db.url_by(proxy.directory());
        let file = program.file(
            self.workflow,
            &format!(
                "{text}\nwarehouse: {{ url: \"{url}\", lease-expiry: {} }}\n",
                self.lease_expiry()
            ),
        );
        let before = looks.look().await;
        self.save().await;
        let mut drill = Loop {
            drill: self,
            proxy,
            program,
            file,
            looks,
            allowed: BTreeSet::new(),
            before,
            after: String::new(),
            went_on: 0,
            refused: 0,
        };
        let points = drill.without_a_fault().await;
        let begun = Instant::now();
        let readers = Readers::start(drill.looks.clone());
        let mut done = 0;
        for (fault, every) in drill.drill.faults.clone() {
            let mut hit = 0;
            let chosen = chosen(&points, fault, every);
            for &k in &chosen {
                readers.pause(drill.put_back()).await;
                hit += usize::from(drill.with(fault, k).await);
                readers.check(&drill.allowed, &format!("{fault:?} at {k}"));
                done += 1;
            }
            // A few points more or less: what runs side by side does not always meet.
            assert!(
                hit + 4 + chosen.len() / 20 >= chosen.len(),
                "{fault:?} met {hit} of {} points",
                chosen.len()
            );
        }
        assert!(readers.looked() >= done, "the reader was not at work");
        if !drill.drill.from.is_empty() {
            let (went_on, refused) = (drill.went_on, drill.refused);
            assert!(
                went_on > 0 && refused > 0,
                "{went_on} runs went on, {refused} were refused"
            );
            drill.show(&format!("{went_on} runs went on, {refused} were refused"));
        }
        drill.show(&format!(
            "{} points, {done} faults in {:?}",
            points.len(),
            begun.elapsed()
        ));
    }

    /// Short where a lease is to expire, and long where none must.
    fn lease_expiry(&self) -> &'static str {
        let suspends = self
            .faults
            .iter()
            .any(|(fault, _)| *fault == Fault::Suspend);
        if suspends { "1s" } else { "60s" }
    }

    /// Keeps a copy of what is to be put back.
    async fn save(&self) {
        let has = self.has_table().await;
        let table = self.table;
        if has {
            self.db
                .sql(&format!(
                    "CREATE SCHEMA saved; CREATE TABLE saved.derived AS TABLE {table};"
                ))
                .await;
        }
        self.db
            .sql("CREATE SCHEMA IF NOT EXISTS saved; CREATE TABLE saved.manifest AS TABLE derived.manifest")
            .await;
    }

    async fn has_table(&self) -> bool {
        let sql = format!(
            "SELECT count(*) FROM (SELECT to_regclass('{}') AS t) AS f WHERE t IS NOT NULL",
            self.table
        );
        self.db.number(&sql).await == 1
    }
}

impl Loop {
    /// Runs once without a fault, looks at every point, and checks what readers may see. Returns the points.
    async fn without_a_fault(&mut self) -> Vec<Point> {
        let points = Arc::new(Mutex::new(Vec::new()));
        let states = Arc::new(Mutex::new(BTreeSet::from([self.before.clone()])));
        let (looks, seen, handle) = (self.looks.clone(), states.clone(), Handle::current());
        let passed = points.clone();
        self.proxy.begin(move |point| {
            lock(&passed).push(point.clone());
            let state = handle.block_on(looks.look());
            lock(&seen).insert(state);
            Verdict::Pass
        });
        let ended = self.broken_run();
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        self.proxy.end();
        self.after = self.looks.look().await;
        self.allowed.clone_from(&lock(&states));
        self.allowed.insert(self.after.clone());
        assert_eq!(self.allowed.len(), self.drill.states, "{:#?}", self.allowed);
        assert!(
            self.allowed
                .iter()
                .all(|state| state.starts_with("0 keys doubled")),
            "{:#?}",
            self.allowed
        );
        if self.before == NO_TABLE {
            // Names are not looked up in a snapshot: who began to read before the table was made finds it, without rows.
            self.allowed.insert(EMPTY_TABLE.to_owned());
        }
        self.drill
            .db
            .assert_equals_rebuild(self.drill.workflow, self.drill.table)
            .await;
        std::mem::take(&mut *lock(&points))
    }

    /// Puts tables, manifest and journal back to where the first run began.
    async fn put_back(&self) {
        let table = self.drill.table;
        let rows = match self.before == NO_TABLE {
            true => format!("DROP TABLE {table};"),
            false => format!("TRUNCATE {table}; INSERT INTO {table} TABLE saved.derived;"),
        };
        self.drill
            .db
            .sql(&format!(
                "BEGIN; {rows}
                 TRUNCATE derived.manifest; INSERT INTO derived.manifest TABLE saved.manifest;
                 TRUNCATE stepwell.runs, stepwell.steps, stepwell.retries; COMMIT"
            ))
            .await;
        assert_eq!(self.looks.look().await, self.before);
    }

    fn args(&self) -> Vec<&str> {
        let mut args = vec!["run", &self.file];
        args.extend(self.drill.args);
        args
    }

    fn broken_run(&self) -> Ended {
        patiently(self.program.start(&self.args()))
    }

    /// Breaks a run at point `k`, and makes it right. Returns whether the run came that far.
    async fn with(&mut self, fault: Fault, k: usize) -> bool {
        let child = Arc::new(AtomicI32::new(0));
        let hit = Arc::new(Mutex::new(None));
        let (of_child, of_hit) = (child.clone(), hit.clone());
        let (looks, handle, restart) = (
            self.looks.clone(),
            Handle::current(),
            self.drill.restart.clone(),
        );
        self.proxy.begin(move |point| {
            if point.number != k {
                return Verdict::Pass;
            }
            *lock(&of_hit) = Some(point.clone());
            strike(fault, point, &of_child, &looks, &handle, &restart)
        });
        let mut started = self.program.start(&self.args());
        child.store(started.id().try_into().expect("a pid"), Ordering::Release);
        if fault == Fault::Suspend {
            self.take_over(&mut started, &hit).await;
        }
        let broken = patiently(started);
        self.proxy.end();
        let point = lock(&hit).clone();
        let at = match &point {
            Some(Point { sender, what, .. }) => format!("{fault:?} at {k}: {sender:?}, {what}"),
            None => format!("{fault:?} at {k}: not reached"),
        };
        self.show(&format!("{at}: {}", broken.code));
        if fault == Fault::Restart {
            self.drill.db.session = connect(&self.drill.db.target).await;
        }
        self.looks.wait_until_gone().await;
        self.check_words(&broken, &at).await;
        self.go_on(&at).await;
        self.make_right(&at).await;
        point.is_some()
    }

    /// Runs until a run takes over from one that stands still, and lets that one go on. Where the points fall depends on
    /// time, so a run may end without one of the last.
    async fn take_over(&self, suspended: &mut Child, hit: &Mutex<Option<Point>>) {
        let pid = suspended.id().try_into().expect("a pid");
        let begun = Instant::now();
        while lock(hit).is_none() {
            let ended = suspended.try_wait().expect("it is ours").is_some();
            if ended && lock(hit).is_none() {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "the run does not come there");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        loop {
            let other = patiently(self.program.start(&["run", &self.file]));
            match other.code {
                0 => break,
                5 if begun.elapsed() < PATIENCE => {}
                _ => panic!("{}", other.stderr),
            }
        }
        assert_eq!(self.looks.look().await, self.after);
        // SAFETY: the child is ours, and is not waited for before it has ended.
        unsafe { libc::kill(pid, libc::SIGCONT) };
    }

    /// Writes a line to the file that `STEPWELL_FAULTS_LOG` names.
    fn show(&self, line: &str) {
        use std::io::Write;

        if let Some(path) = std::env::var_os("STEPWELL_FAULTS_LOG") {
            let file = std::fs::File::options()
                .create(true)
                .append(true)
                .open(path);
            let line: String = line.chars().take(160).collect();
            writeln!(file.expect("a log"), "{}: {line}", self.drill.workflow).expect("written");
        }
    }

    /// What the program says about the state of the tables is so.
    async fn check_words(&self, broken: &Ended, at: &str) {
        let state = self.looks.look().await;
        let stderr = &broken.stderr;
        assert!(self.allowed.contains(&state), "{at}: {state}\n{stderr}");
        if broken.code == 0 {
            assert_eq!(state, self.after, "{at}: {stderr}");
        }
        // Of a run that another one overtook it is so of its own doing.
        let overtaken = at.starts_with("Suspend");
        if stderr.contains("derived tables and manifest unchanged") && !overtaken {
            let sliced = stderr.contains("earlier slices committed");
            assert_eq!(state == self.before, !sliced, "{at}: {stderr}");
        }
        if stderr.contains("derived tables and manifest committed") {
            assert!(state != self.before, "{at}: {stderr}");
        }
        let codes: &[i32] = match at.split(' ').next() {
            Some("Kill") => &[-libc::SIGKILL, 0],
            Some("Interrupt") => &[130, 0],
            // It finds its lease gone, or in the end its connection.
            Some("Suspend") => &[0, 4, 5],
            _ => &[0, 4, 5, 6],
        };
        assert!(
            codes.contains(&broken.code),
            "{at}: {} {stderr}",
            broken.code
        );
    }

    /// Goes on at each of the steps until it may.
    async fn go_on(&mut self, at: &str) {
        for step in self.drill.from {
            let state = self.looks.look().await;
            let ended = patiently(self.program.start(&["run", &self.file, "--from", step]));
            let said = &ended.stderr;
            match ended.code {
                0 => {
                    assert_eq!(self.looks.look().await, self.after, "{at}, {step}: {said}");
                    self.went_on += 1;
                    return;
                }
                13 => {
                    assert_eq!(self.looks.look().await, state, "{at}, {step}: {said}");
                    self.refused += 1;
                }
                code => panic!("{at}, {step}: {code} {said}"),
            }
        }
    }

    /// One plain run, after which everything is as it should be.
    async fn make_right(&self, at: &str) {
        let plain = patiently(self.program.start(&["run", &self.file]));
        assert_eq!(plain.code, 0, "{at}: {}", plain.stderr);
        assert_eq!(self.looks.look().await, self.after, "{at}");
        let db = &self.drill.db;
        let journal = "SELECT
            (SELECT count(*) FROM stepwell.runs WHERE finished_at IS NULL OR state = 'running') AS open,
            (SELECT count(*) FROM stepwell.leases WHERE released_at IS NULL) AS held,
            (SELECT count(*) FROM derived.manifest AS m
             WHERE NOT EXISTS (SELECT FROM saved.manifest AS s WHERE s.run_id = m.run_id)
               AND NOT EXISTS (SELECT FROM stepwell.runs AS r WHERE r.run_id = m.run_id AND r.committed_at IS NOT NULL)
            ) AS unknown,
            (SELECT count(*) FROM stepwell.runs AS r
             WHERE r.committed_at IS NOT NULL AND NOT EXISTS (SELECT FROM derived.manifest AS m WHERE m.run_id = r.run_id)
            ) AS without_rows";
        let found = db.rows(journal).await;
        let expected = vec![vec![Some("0".to_owned()); 4]];
        if found != expected {
            let runs = db.rows("SELECT run_id, state, took_over, passes, error FROM stepwell.runs ORDER BY started_at").await;
            panic!("{at}: open, held, unknown, without rows: {found:?}\n{runs:#?}");
        }
        // The plain run may take in one pass what was to be taken in several.
        let commits = db.number("SELECT sum(passes) FROM stepwell.runs").await;
        let most = i64::try_from(self.drill.states).expect("few") - 1;
        assert!((1..=most).contains(&commits), "{at}: {commits} commits");
    }
}

/// Breaks what is to be broken.
fn strike(
    fault: Fault,
    point: &Point,
    child: &AtomicI32,
    looks: &Looks,
    handle: &Handle,
    restart: &Restart,
) -> Verdict {
    let signal = |signal| {
        let pid = loop {
            match child.load(Ordering::Acquire) {
                0 => std::thread::sleep(Duration::from_millis(1)),
                pid => break pid,
            }
        };
        // SAFETY: the child is ours, and is not waited for before it has ended.
        unsafe { libc::kill(pid, signal) };
    };
    match fault {
        Fault::Kill => {
            signal(libc::SIGKILL);
            Verdict::CutAll
        }
        Fault::Interrupt => {
            signal(libc::SIGINT);
            Verdict::Pass
        }
        Fault::Suspend => {
            signal(libc::SIGSTOP);
            Verdict::Pass
        }
        Fault::Cut => Verdict::Cut,
        Fault::Terminate => {
            if let Some(backend) = point.backend {
                handle.block_on(looks.end_session(backend));
            }
            Verdict::Pass
        }
        Fault::Restart => {
            restart();
            Verdict::Pass
        }
    }
}

/// Waits for a program to end, for [`PATIENCE`] at most.
pub fn patiently(mut child: Child) -> Ended {
    let begun = Instant::now();
    while child.try_wait().expect("it is ours").is_none() {
        if begun.elapsed() > PATIENCE {
            child.kill().expect("it lives");
            let ended = Ended::of(child);
            panic!("the program hangs: {}", ended.stderr);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ended::of(child)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a reader sees before the table is there.
const NO_TABLE: &str = "0 keys doubled, no table";

/// What they see of one that has no rows, before any batch is processed.
const EMPTY_TABLE: &str = "0 keys doubled, 0 rows , 0 batches ";

/// A reader of its own connection, which it opens again if the server ends it.
struct Looks {
    target: Target,
    sql: String,
    session: tokio::sync::Mutex<Session>,
}

impl Looks {
    async fn new(drill: &Drill) -> Self {
        let (table, key) = (drill.table, drill.key);
        let sql = format!(
            "SELECT count(*) - count(DISTINCT ({key})) || ' keys doubled, ' || count(*) || ' rows '
               || coalesce(md5(string_agg(t::text, E'\\n' ORDER BY t::text)), '')
               || (SELECT ', ' || count(*) || ' batches '
                   || coalesce(md5(string_agg((m.batch, m.events, m.first_time, m.last_time,
                     m.before_batches, m.before_events, m.before_first_time, m.before_last_time)::text, E'\\n' ORDER BY m.batch)), '')
                   FROM derived.manifest AS m) AS state
             FROM {table} AS t"
        );
        Self {
            target: drill.db.target.clone(),
            sql,
            session: tokio::sync::Mutex::new(connect(&drill.db.target).await),
        }
    }

    /// Returns what a reader sees now.
    async fn look(&self) -> String {
        let mut session = self.session.lock().await;
        loop {
            match look(&session, &self.sql).await {
                Ok(state) => return state,
                Err(WarehouseError::ConnectionLost { .. }) => {
                    *session = connect(&self.target).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Looks twice, some time apart, in one snapshot.
    async fn look_twice(&self) -> Result<[String; 2], WarehouseError> {
        let session = self.session.lock().await;
        session
            .batch("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await?;
        let first = look(&session, &self.sql).await;
        tokio::time::sleep(Duration::from_millis(3)).await;
        let second = match &first {
            // The transaction is at its end.
            Ok(state) if state == NO_TABLE => Ok(state.clone()),
            _ => look(&session, &self.sql).await,
        };
        session.rollback().await?;
        Ok([first?, second?])
    }

    async fn end_session(&self, backend: i32) {
        let session = self.session.lock().await;
        let number = format!("SELECT pg_terminate_backend({backend})");
        session.batch(&number).await.expect("the right to");
        let there = format!("SELECT FROM pg_stat_activity WHERE pid = {backend}");
        while session.execute(&there, &[]).await.expect("a count") > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until the server has noticed that a program is gone: its control session is.
    async fn wait_until_gone(&self) {
        let begun = Instant::now();
        let there = "SELECT FROM pg_stat_activity
            WHERE application_name LIKE 'stepwell % control %' AND datname = current_database()";
        loop {
            let session = self.session.lock().await;
            match session.execute(there, &[]).await {
                Ok(0) => return,
                Ok(_) => {}
                Err(_) => {
                    drop(session);
                    self.look().await;
                }
            }
            assert!(begun.elapsed() < PATIENCE, "a control session stays");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

async fn look(session: &Session, sql: &str) -> Result<String, WarehouseError> {
    match session.ask(sql, &[], &AnswerLimits::default()).await {
        Ok(answer) => Ok(answer.text(0, "state").expect("a state").to_owned()),
        Err(WarehouseError::Statement(error)) if error.sqlstate == "42P01" => Ok(NO_TABLE.into()),
        Err(error) => Err(error),
    }
}

/// Connects; a server that starts is waited for.
async fn connect(target: &Target) -> Session {
    let begun = Instant::now();
    loop {
        match Session::connect(target, &Default::default()).await {
            Ok(session) => return session,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A thread that looks without a pause but for those that it is told to make.
struct Readers {
    seen: Arc<Mutex<BTreeSet<String>>>,
    /// Held while the reader looks, and while it must not.
    looking: Arc<tokio::sync::Mutex<()>>,
    looked: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
}

impl Readers {
    fn start(looks: Arc<Looks>) -> Self {
        let readers = Self {
            seen: Arc::default(),
            looking: Arc::default(),
            looked: Arc::default(),
            over: Arc::default(),
        };
        let (seen, looking) = (readers.seen.clone(), readers.looking.clone());
        let (looked, over) = (readers.looked.clone(), readers.over.clone());
        let handle = Handle::current();
        std::thread::spawn(move || {
            let own = Looks {
                target: looks.target.clone(),
                sql: looks.sql.clone(),
                session: tokio::sync::Mutex::new(handle.block_on(connect(&looks.target))),
            };
            while !over.load(Ordering::Relaxed) {
                let pause = handle.block_on(looking.lock());
                match handle.block_on(own.look_twice()) {
                    Ok([first, second]) => {
                        let moved = first != second;
                        let state = match moved {
                            true => format!("one snapshot changed from {first} to {second}"),
                            false => first,
                        };
                        lock(&seen).insert(state);
                        looked.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(_) => {
                        *handle.block_on(own.session.lock()) =
                            handle.block_on(connect(&own.target));
                    }
                }
                drop(pause);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        readers
    }

    /// Lets nobody look while `work` is done.
    async fn pause(&self, work: impl Future<Output = ()>) {
        let _pause = self.looking.lock().await;
        work.await;
    }

    fn check(&self, allowed: &BTreeSet<String>, at: &str) {
        let seen = std::mem::take(&mut *lock(&self.seen));
        let other: Vec<_> = seen.difference(allowed).collect();
        assert!(
            other.is_empty(),
            "{at}: a reader saw {other:#?}, not of {allowed:#?}"
        );
    }

    fn looked(&self) -> usize {
        self.looked.load(Ordering::Relaxed)
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}
