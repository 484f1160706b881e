//! The stream seen as a warehouse would see it: through its bytes.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use jiff::civil::DateTime;
use sha2::{Digest, Sha256};

use super::*;
use crate::batch::CHUNK_BYTES;
use crate::copy_text::parse;
use crate::schema::{EVENT_COLUMNS, PAGE_CONTEXT_COLUMNS};
use crate::shares::*;

type Fields = Vec<Option<String>>;

fn options(events: u64, days: u32) -> StreamOptions {
    StreamOptions {
        seed: 42,
        events,
        days,
        ..StreamOptions::default()
    }
}

fn column(name: &str) -> usize {
    EVENT_COLUMNS
        .iter()
        .position(|(column, _)| *column == name)
        .expect("a column of events")
}

fn value<'a>(row: &'a Fields, name: &str) -> Option<&'a str> {
    row[column(name)].as_deref()
}

fn ms(row: &Fields, name: &str) -> i64 {
    let time: DateTime = value(row, name).expect("a time").parse().expect("a time");
    time.to_zoned(jiff::tz::TimeZone::UTC)
        .expect("in range")
        .timestamp()
        .as_millisecond()
}

fn events_of(batch: &Batch) -> Vec<Fields> {
    let rows: Vec<Fields> = batch
        .event_chunks()
        .flat_map(|chunk| parse(&chunk))
        .collect();
    assert_eq!(rows.len() as u64, batch.events());
    rows
}

fn contexts_of(batch: &Batch) -> Vec<Fields> {
    let rows: Vec<Fields> = batch
        .page_context_chunks()
        .flat_map(|chunk| parse(&chunk))
        .collect();
    assert_eq!(rows.len() as u64, batch.page_contexts());
    rows
}

/// A history that the tests on its nature share: about 2,800 sessions.
fn history() -> &'static (Vec<Fields>, Vec<Fields>) {
    static HISTORY: LazyLock<(Vec<Fields>, Vec<Fields>)> = LazyLock::new(|| {
        let batches: Vec<Batch> = Stream::new(&options(100_000, 14))
            .expect("good options")
            .collect();
        (
            batches.iter().flat_map(events_of).collect(),
            batches.iter().flat_map(contexts_of).collect(),
        )
    });
    &HISTORY
}

/// Asserts that `count` of `total` is the share, give or take a fifth and what chance allows for
/// small numbers.
#[track_caller]
fn assert_share(what: &str, count: usize, total: usize, per_100k: u32) {
    let expected = total as f64 * f64::from(per_100k) / 100_000.0;
    let slack = 0.2 * expected + 4.0 * expected.sqrt();
    let off = (count as f64 - expected).abs();
    assert!(
        off <= slack,
        "{what}: {count} of {total}, expected {expected:.0} ± {slack:.0}"
    );
}

/// Pins the bytes of one stream.
///
/// Goal: the same options give the same bytes on every machine and after every update of a
/// dependency. Method: a digest that was written down once. Whoever changes the stream on purpose
/// writes down the new one, and knows that numbers measured on the old stream no longer compare.
#[test]
fn the_same_options_give_the_same_bytes() {
    let digest = |seed| {
        let mut stream = Stream::new(&StreamOptions {
            seed,
            ..options(20_000, 10)
        })
        .expect("good options");
        let mut hash = Sha256::new();
        let mut feed = |batch: &Batch| {
            hash.update(batch.etl_tstamp());
            batch
                .event_chunks()
                .chain(batch.page_context_chunks())
                .for_each(|chunk| hash.update(chunk));
        };
        stream.by_ref().for_each(|batch| feed(&batch));
        feed(&stream.next_batch());
        feed(&stream.next_batch_of(1_000));
        hash.finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    assert_eq!(
        digest(42),
        "6c5b1ed0970b4b6aa56f6b8cabff4ce877f370df83eebcb4bc62fe19150b2264"
    );
    assert_ne!(digest(43), digest(42));
}

#[test]
fn the_history_has_exactly_the_events_asked_for() {
    for (events, days, batch_minutes) in [
        (1, 3, 60),
        (10, 60, 60),
        (5_000, 2, 5),
        (30_000, 20, 1440),
        (7_777, 1, 60),
    ] {
        let options = StreamOptions {
            batch_minutes,
            ..options(events, days)
        };
        let mut stream = Stream::new(&options).expect("good options");
        let history: Vec<Batch> = stream.by_ref().collect();
        assert_eq!(history.len() as u64, stream.history_batches());
        assert_eq!(
            history.iter().map(Batch::events).sum::<u64>(),
            events,
            "{options:?}"
        );

        let batches = stream.history_batches();
        let after: Vec<u64> = (0..batches).map(|_| stream.next_batch().events()).collect();
        assert_eq!(
            after.iter().sum::<u64>(),
            events.max(batches),
            "{options:?}"
        );
        assert!(
            after.iter().max().unwrap() - after.iter().min().unwrap() <= 1,
            "{after:?}"
        );
        assert_eq!(stream.next_batch_of(10 * events).events(), 10 * events);
        assert_eq!(stream.next_batch_of(0).events(), 0);
    }
}

#[test]
fn history_sizes_follow_the_day_without_swinging() {
    for batch_minutes in [5, 60] {
        let options = StreamOptions {
            batch_minutes,
            ..options(150_000, 14)
        };
        let sizes: Vec<u64> = Stream::new(&options)
            .expect("good options")
            .map(|batch| batch.events())
            .collect();
        let per_hour: Vec<u64> = sizes
            .chunks(60 / batch_minutes as usize)
            .map(|hour| hour.iter().sum())
            .collect();
        // Two mid-week evenings and nights: 116 against 11 by the curve.
        for day in [2, 9] {
            let (night, evening) = (per_hour[day * 24 + 4], per_hour[day * 24 + 20]);
            assert!(evening > 5 * night, "day {day}: {night} to {evening}");
        }
        // Batches beside each other at the peak are alike: nothing alternates between feast and
        // famine.
        let evening = &sizes[sizes.len() * 9 / 14..][19 * 60 / batch_minutes as usize..][..2];
        let (least, most) = (evening.iter().min().unwrap(), evening.iter().max().unwrap());
        assert!(*most < 2 * least, "{evening:?}");
    }
}

#[test]
fn batches_are_in_order_and_chunks_within_bounds() {
    let mut stream = Stream::new(&options(20_000, 2)).expect("good options");
    let first = stream.next_batch();
    assert_eq!(
        (first.index(), first.etl_tstamp().as_str()),
        (0, "2024-01-01 01:05:00.000")
    );
    let mut before = first.etl_tstamp();
    for batch in stream.by_ref() {
        assert!(batch.etl_tstamp() > before);
        before = batch.etl_tstamp();
        let rows = events_of(&batch);
        assert!(
            rows.iter()
                .all(|row| value(row, "etl_tstamp") == Some(&before))
        );
    }
    let big = stream.next_batch_of(2_000);
    assert!(big.event_chunks().count() > 10);
    assert!(
        big.event_chunks()
            .all(|chunk| !chunk.is_empty() && chunk.len() <= CHUNK_BYTES)
    );
}

#[test]
fn every_row_is_one_that_its_table_takes() {
    let (events, contexts) = history();
    for row in events {
        assert_eq!(row.len(), EVENT_COLUMNS.len(), "{row:?}");
        for ((name, sql_type), field) in EVENT_COLUMNS.iter().zip(row) {
            let Some(field) = field else {
                assert!(!sql_type.contains("NOT NULL"), "{name} is NULL");
                continue;
            };
            assert_fits(name, sql_type, field);
        }
    }
    for row in contexts {
        assert_eq!(row.len(), PAGE_CONTEXT_COLUMNS.len(), "{row:?}");
        for ((name, sql_type), field) in PAGE_CONTEXT_COLUMNS.iter().zip(row) {
            assert_fits(
                name,
                sql_type,
                field.as_deref().expect("no NULL in a context"),
            );
        }
    }
    let odd = |character: char| {
        events
            .iter()
            .any(|row| value(row, "page_title").is_some_and(|title| title.contains(character)))
    };
    assert!(
        odd('\t') && odd('\\') && odd('"') && odd('山'),
        "titles try the loader"
    );
}

#[track_caller]
fn assert_fits(name: &str, sql_type: &str, field: &str) {
    let sql_type = sql_type.trim_end_matches(" NOT NULL");
    let fits = match sql_type {
        "timestamp" => field.parse::<DateTime>().is_ok(),
        "smallint" => field.parse::<i16>().is_ok(),
        "integer" => field.parse::<i32>().is_ok(),
        "text" => true,
        _ => {
            let length = sql_type.split(['(', ')']).nth(1).expect("a length");
            field.chars().count() <= length.parse().expect("a number")
        }
    };
    assert!(fits, "{name} {sql_type}: {field:?}");
}

#[test]
fn shares_are_as_named() {
    let (events, contexts) = history();
    let total = events.len();
    let count = |test: &dyn Fn(&Fields) -> bool| events.iter().filter(|row| test(row)).count();

    let ids: HashSet<&str> = events
        .iter()
        .filter_map(|row| value(row, "event_id"))
        .collect();
    assert_share(
        "duplicates",
        total - ids.len(),
        total,
        ROW_DUPLICATE_PER_100K,
    );
    let no_session = count(&|row| value(row, "domain_sessionid").is_none());
    assert_share("no session", no_session, total, EVENT_NO_SESSION_PER_100K);
    let no_visitor = count(&|row| value(row, "domain_userid").is_none());
    assert_share(
        "no visitor",
        no_visitor,
        no_session,
        NO_SESSION_NO_VISITOR_PER_100K,
    );

    let lateness = |row: &Fields| ms(row, "etl_tstamp") - ETL_MS - ms(row, "collector_tstamp");
    let hours_late = EVENT_LATE[1].0 + EVENT_LATE[2].0 + EVENT_DAYS_LATE_PER_100K;
    let hours_late =
        hours_late + ROW_DUPLICATE_PER_100K * DUPLICATE_LOADED_AGAIN_PER_100K / 100_000;
    // A batch covers one hour, so that rows more than two hours older than its end came late for
    // sure.
    assert_share(
        "hours late",
        count(&|row| lateness(row) > 2 * HOUR_MS),
        total,
        hours_late * 95 / 100,
    );
    assert_share(
        "days late",
        count(&|row| lateness(row) > 25 * HOUR_MS),
        total,
        EVENT_DAYS_LATE_PER_100K,
    );
    assert_eq!(count(&|row| lateness(row) > 3 * DAY_MS + HOUR_MS), 0);
    let offline =
        count(&|row| ms(row, "dvce_sent_tstamp") - ms(row, "dvce_created_tstamp") >= MINUTE_MS);
    assert_share("offline", offline, total, EVENT_OFFLINE_PER_100K);

    let views = count(&|row| value(row, "event_name") == Some("page_view"));
    let events_per_page = total as f64 / views as f64;
    assert!(
        (11.0..13.0).contains(&events_per_page),
        "{events_per_page} events a page"
    );
    let sessions: HashSet<_> = events
        .iter()
        .filter_map(|row| value(row, "domain_sessionid"))
        .collect();
    let rows_per_session = total as f64 / sessions.len() as f64;
    let mean = SESSION_ROWS_MEAN as f64;
    assert!(
        (0.9 * mean..1.1 * mean).contains(&rows_per_session),
        "{rows_per_session} a session"
    );

    let mut per_root: HashMap<&str, HashSet<&str>> = HashMap::new();
    for context in contexts {
        let (root, id) = (
            context[4].as_deref().unwrap(),
            context[9].as_deref().unwrap(),
        );
        per_root.entry(root).or_default().insert(id);
    }
    assert!(
        per_root.keys().all(|root| ids.contains(root)),
        "no context without its event"
    );
    assert_share(
        "no context",
        ids.len() - per_root.len(),
        ids.len(),
        EVENT_NO_CONTEXT_PER_100K,
    );
    let two = per_root.values().filter(|ids| ids.len() == 2).count();
    assert_share("two contexts", two, ids.len(), EVENT_TWO_CONTEXTS_PER_100K);
}

#[test]
fn duplicates_are_of_every_kind() {
    let (events, _) = history();
    let mut by_id: HashMap<&str, Vec<&Fields>> = HashMap::new();
    for row in events {
        by_id
            .entry(value(row, "event_id").unwrap())
            .or_default()
            .push(row);
    }
    let mut kinds: HashMap<(bool, bool), usize> = HashMap::new();
    for rows in by_id.values().filter(|rows| rows.len() > 1) {
        assert_eq!(rows.len(), 2, "an event has at most one duplicate");
        let same = |name| value(rows[0], name) == value(rows[1], name);
        assert!(same("domain_sessionid") && same("event_name") && same("dvce_created_tstamp"));
        *kinds
            .entry((same("collector_tstamp"), same("etl_tstamp")))
            .or_default() += 1;
    }
    // Same or later collector_tstamp, in the same or a later batch.
    for kind in [(true, true), (true, false), (false, true), (false, false)] {
        assert!(
            kinds.get(&kind).is_some_and(|count| *count >= 30),
            "{kind:?} of {kinds:?}"
        );
    }
}

#[test]
fn sessions_straddle_batches_and_fit_a_lookback_of_seven_days() {
    let (events, _) = history();
    let mut sessions: HashMap<&str, (HashSet<&str>, i64, i64)> = HashMap::new();
    for row in events {
        let Some(id) = value(row, "domain_sessionid") else {
            continue;
        };
        let session = sessions
            .entry(id)
            .or_insert_with(|| (HashSet::new(), i64::MAX, i64::MIN));
        session.0.insert(value(row, "etl_tstamp").unwrap());
        session.1 = session.1.min(ms(row, "collector_tstamp"));
        session.2 = session.2.max(ms(row, "etl_tstamp"));
    }
    let straddling = sessions
        .values()
        .filter(|session| session.0.len() > 1)
        .count();
    assert!(
        straddling * 100 > sessions.len() * 15,
        "{straddling} of {}",
        sessions.len()
    );
    let resumed = sessions
        .values()
        .filter(|session| session.2 - session.1 > DAY_MS)
        .count();
    assert!(resumed >= 5, "{resumed} sessions over more than a day");
    assert!(
        sessions
            .values()
            .all(|session| session.2 - session.1 < 7 * DAY_MS)
    );
}

#[test]
fn pages_and_users_hang_together() {
    let (events, contexts) = history();
    let mut page_ids: HashMap<&str, Vec<&str>> = HashMap::new();
    for context in contexts {
        page_ids
            .entry(context[4].as_deref().unwrap())
            .or_default()
            .push(context[9].as_deref().unwrap());
    }
    // Pings carry the id of their page view; some page views lie before the history or have no
    // context.
    let single = |row: &Fields| match page_ids.get(value(row, "event_id")?).map(Vec::as_slice) {
        Some([id]) => Some(*id),
        _ => None,
    };
    let of = |event: &str| -> HashSet<&str> {
        events
            .iter()
            .filter(|row| value(row, "event_name") == Some(event))
            .filter_map(&single)
            .collect()
    };
    let (views, pings) = (of("page_view"), of("page_ping"));
    let known = pings.intersection(&views).count();
    assert!(known * 100 > pings.len() * 97, "{known} of {}", pings.len());
    assert!(views.len() > pings.len(), "some pages are left at once");

    let mut users: HashMap<&str, HashSet<Option<&str>>> = HashMap::new();
    let mut indexes: HashMap<&str, HashSet<&str>> = HashMap::new();
    for row in events {
        let Some(visitor) = value(row, "domain_userid") else {
            continue;
        };
        users
            .entry(visitor)
            .or_default()
            .insert(value(row, "user_id"));
        indexes
            .entry(visitor)
            .or_default()
            .extend(value(row, "domain_sessionidx"));
    }
    assert!(
        users.values().all(|ids| ids.iter().flatten().count() <= 1),
        "one user a visitor"
    );
    let later_known = users.values().filter(|ids| ids.len() == 2).count();
    assert!(
        later_known * 100 > users.len() * 5,
        "{later_known} of {} log in later",
        users.len()
    );
    assert!(
        indexes.values().any(|indexes| indexes.len() > 10),
        "some visitors come often"
    );
    let once = indexes
        .values()
        .filter(|indexes| indexes.len() == 1)
        .count();
    assert!(
        once * 2 > indexes.len(),
        "{once} of {} come once",
        indexes.len()
    );
}

/// Memory follows the traffic, not the length.
///
/// Goal: tens of millions of events need no more memory than a few days of them. Method: at the
/// same traffic, four times the days must not raise the peak of rows in flight, which are all that
/// the stream keeps.
#[test]
fn what_is_in_flight_does_not_grow_with_the_history() {
    let peak = |days: u32| {
        let mut stream =
            Stream::new(&options(2_000 * u64::from(days), days)).expect("good options");
        let mut peak = 0;
        while stream.next().is_some() {
            peak = peak.max(stream.rows_in_flight());
        }
        peak
    };
    let (short, long) = (peak(15), peak(60));
    assert!(long < short * 3 / 2, "{short}, then {long}");
    assert!(long < 2_000, "less than a day of traffic: {long}");
}

#[test]
fn nothing_is_late_when_nothing_may_be() {
    let options = StreamOptions {
        late_days_max: 0,
        ..options(20_000, 5)
    };
    let batches: Vec<Batch> = Stream::new(&options).expect("good options").collect();
    let again = u64::from(ROW_DUPLICATE_PER_100K) * u64::from(DUPLICATE_LOADED_AGAIN_PER_100K);
    let late = batches
        .iter()
        .flat_map(events_of)
        .filter(|row| ms(row, "etl_tstamp") - ETL_MS - ms(row, "collector_tstamp") > HOUR_MS)
        .count() as u64;
    assert!(
        late <= 2 * 20_000 * again / 10_000_000_000 + 1,
        "{late} rows, more than were loaded again"
    );
}

#[test]
fn options_out_of_bounds_are_named() {
    let good = options(100, 1);
    let error = |options: StreamOptions| Stream::new(&options).expect_err("refused").to_string();
    assert_eq!(
        error(StreamOptions {
            events: 0,
            ..good.clone()
        }),
        "events is 0, but it goes from 1 to 281474976710656"
    );
    assert_eq!(
        error(StreamOptions {
            days: 0,
            ..good.clone()
        }),
        "days is 0, but it goes from 1 to 36500"
    );
    assert_eq!(
        error(StreamOptions {
            start: date(1969, 12, 31),
            ..good.clone()
        }),
        "year of start is 1969, but it goes from 1970 to 8999"
    );
    assert_eq!(
        error(StreamOptions {
            batch_minutes: 7,
            ..good
        }),
        "batch_minutes is 7, which does not divide a day of 1440 minutes"
    );
}
