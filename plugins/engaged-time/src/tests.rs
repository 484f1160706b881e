use super::*;
use stepwell_sdk::incremental::{Ids, KeyColumn};
use stepwell_sdk::testing::{Conversation, Dice, Reduction};
use stepwell_sdk::values::DAY_US;

const WITH: &str = r#"{
    "ids": "visitor_day_ids", "into": "engaged_days",
    "dedupe": { "by": "event_id", "earliest": ["collector_tstamp"] },
    "time": "derived_tstamp", "event": "event_name", "heartbeat": "10s", "tolerance": "1s"
}"#;

fn conversation(key: &[(&str, &str)], with: &str) -> Conversation<With, Shape> {
    let column = |&(name, expression): &(&str, &str)| KeyColumn {
        name: name.into(),
        expression: expression.into(),
    };
    let ids = Ids {
        key: key.iter().map(column).collect(),
        batches: "batches".into(),
        bounded: true,
        contexts: vec![],
        ..Ids::default()
    };
    Conversation::new(shape, with)
        .about("visitor_day_ids", &ids)
        .columns(
            "atomic.events",
            &[
                "event_id",
                "event_name",
                "derived_tstamp",
                "collector_tstamp",
                "useragent",
            ],
        )
}

#[test]
fn it_wants_the_events_of_the_ids() {
    let key = [
        ("visitor", "domain_userid"),
        ("day", "derived_tstamp::date"),
    ];
    conversation(&key, WITH).check_golden("sql/shape.postgres.sql");
}

#[test]
fn mistakes_point_at_the_setting() {
    let key = [("who", "domain_userid"), ("day", "derived_tstamp::date")];
    let failure = conversation(&key, WITH).outcome().0.unwrap_err();
    assert_eq!(
        (failure.code.as_str(), failure.setting.as_deref()),
        ("other-key", Some("/ids"))
    );
    assert!(
        failure
            .help
            .expect("a help")
            .contains("key: { visitor: …, day: … }")
    );
    let key = [
        ("visitor", "domain_userid"),
        ("day", "derived_tstamp::date"),
    ];
    for (from, to, setting) in [
        ("\"10s\"", "\"0s\"", "/heartbeat"),
        ("\"1s\"", "\"1\"", "/tolerance"),
        ("\"event_name\"", "\"event_name)\"", "/event"),
        ("\"event_id\"", "\"evnt\"", "/dedupe/by"),
    ] {
        let failure = conversation(&key, &WITH.replace(from, to))
            .outcome()
            .0
            .unwrap_err();
        assert_eq!(failure.setting.as_deref(), Some(setting), "{failure:?}");
    }
}

/// Two tabs that are used in turn, a pause, and windows that midnight cuts off.
#[test]
fn windows_of_several_tabs_count_once() {
    let reduction = Reduction::of::<Engaged>(WITH).table(
        "visitor | day        | at                    | event      | source_time
         a       | 2024-01-02 | 2024-01-02 00:00:04   | page_ping  | 2024-01-02 00:00:05
         a       | 2024-01-02 | 2024-01-02 09:00:00   | page_view  | 2024-01-02 09:00:01
         a       | 2024-01-02 | 2024-01-02 09:00:10   | page_ping  | 2024-01-02 09:00:11
         a       | 2024-01-02 | 2024-01-02 09:00:13   | page_ping  | 2024-01-02 09:00:14
         a       | 2024-01-02 | 2024-01-02 09:00:20.5 | page_ping  | 2024-01-02 09:00:22
         a       | 2024-01-02 | 2024-01-02 09:00:31.5 | page_ping  | 2024-01-02 08:59:59
         a       | 2024-01-02 | 2024-01-02 09:10:00   | page_ping  | 2024-01-02 09:10:01
         a       | 2024-01-02 | NULL                  | link_click | 2024-01-02 09:10:02
         b       | 2024-01-02 | 2024-01-02 10:00:00   | page_view  | 2024-01-02 10:00:01
         c       | 2024-01-02 | 2024-01-02 10:00:00   | NULL       | 2024-01-02 10:00:01",
    );
    reduction.check_table(
        "visitor | day        | page_views | page_pings | engaged_seconds | longest_streak_seconds | bounced | first_time
         a       | 2024-01-02 | 1          | 6          | 45              | 31                     | f       | 2024-01-02 00:00:05
         b       | 2024-01-02 | 1          | 0          | 0               | 0                      | t       | 2024-01-02 10:00:01
         c       | 2024-01-02 | 0          | 0          | 0               | 0                      | f       | 2024-01-02 10:00:01",
    );
    reduction.check_invariance(1);
}

/// Seconds of a day that are engaged, each by itself: what the windows say, and then what the tolerance fills.
fn by_the_second(events: &[Event<'_>], heartbeat: i64, tolerance: i64) -> (i64, i64) {
    let mut seconds = vec![false; usize::try_from(DAY_US / SECOND_US).expect("seconds of a day")];
    let pings = events
        .iter()
        .filter(|event| event.event == Some("page_ping"));
    for second in pings.filter_map(|event| Some(event.at?.us_since(event.day.start()) / SECOND_US))
    {
        for engaged in (second - heartbeat).max(0)..second {
            seconds[engaged as usize] = true;
        }
    }
    let engaged: Vec<usize> = (0..seconds.len()).filter(|&at| seconds[at]).collect();
    for pair in engaged.windows(2) {
        if pair[1] - pair[0] - 1 <= tolerance as usize {
            seconds[pair[0]..pair[1]].fill(true);
        }
    }
    let streaks = seconds.split(|engaged| !engaged).map(<[bool]>::len);
    let longest = streaks.max().unwrap_or(0);
    (
        seconds.iter().filter(|engaged| **engaged).count() as i64,
        longest as i64,
    )
}

/// Events of a few visitors on two days, in whole seconds.
fn events(dice: &mut Dice) -> Vec<Event<'static>> {
    let event = |dice: &mut Dice| {
        let day = Date(19_000 + dice.below(2) as i32);
        // Close together, and now and then at the day's edges.
        let second = match dice.below(10) {
            0 => dice.below(8) as i64,
            1 => 86_399 - dice.below(3) as i64,
            _ => 3_600 + dice.below(240) as i64,
        };
        let at = day.start().plus_us(second * SECOND_US);
        let words = [
            Some("page_ping"),
            Some("page_ping"),
            Some("page_view"),
            Some("link_click"),
            None,
        ];
        Event {
            visitor: ["a", "b", "c", "ü"][dice.place(4)],
            day,
            at: (!dice.percent(3)).then_some(at),
            event: words[dice.place(words.len())],
            source_time: at.plus_us(dice.below(90_000_000) as i64),
        }
    };
    let count = dice.below(120);
    (0..count).map(|_| event(dice)).collect()
}

#[test]
fn it_equals_a_count_by_the_second_however_it_is_cut() {
    for seed in 0..40 {
        let mut dice = Dice::new(seed);
        let events = events(&mut dice);
        let (heartbeat, tolerance) = (1 + dice.below(20) as i64, dice.below(4) as i64);
        // The tolerance first: the new heartbeat may look like the old tolerance.
        let with = WITH
            .replace("\"1s\"", &format!("\"{tolerance}s\""))
            .replace("\"10s\"", &format!("\"{heartbeat}s\""));
        let mut keys: Vec<_> = events
            .iter()
            .map(|event| (event.visitor, event.day))
            .collect();
        keys.sort();
        keys.dedup();
        let expected = keys.into_iter().map(|(visitor, day)| {
            let of_day = events
                .iter()
                .filter(|event| (event.visitor, event.day) == (visitor, day));
            let of_day: Vec<_> = of_day.copied().collect();
            let count = |word| {
                of_day
                    .iter()
                    .filter(|event| event.event == Some(word))
                    .count() as i64
            };
            // A ping without a time says nothing.
            let pings = of_day
                .iter()
                .filter(|event| event.event == Some("page_ping") && event.at.is_some())
                .count() as i64;
            let (engaged, longest) = by_the_second(&of_day, heartbeat, tolerance);
            EngagedDay {
                visitor,
                day,
                page_views: count("page_view"),
                page_pings: pings,
                engaged_seconds: engaged,
                longest_streak_seconds: longest,
                bounced: count("page_view") == 1 && pings == 0,
                first_time: of_day
                    .iter()
                    .map(|event| event.source_time)
                    .min()
                    .expect("a day has events"),
            }
        });
        let reduction = Reduction::of::<Engaged>(&with).rows::<Event<'_>>(events.iter().copied());
        reduction.check_rows::<EngagedDay<'_>>(expected);
        reduction.check_invariance(seed);
    }
}
