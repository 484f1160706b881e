use super::*;
use stepwell_sdk::incremental::{Ids, KeyColumn};
use stepwell_sdk::testing::{Conversation, Dice, Reduction, SOURCE};
use stepwell_sdk::values::SECOND_US;

const WITH: &str = r#"{
    "ids": "visitor_day_ids", "into": "visitor_sessions",
    "dedupe": { "by": "event_id", "earliest": ["collector_tstamp"] },
    "time": "derived_tstamp", "event": "event_name", "campaign": "mkt_campaign", "inactivity": "30 minutes"
}"#;

fn conversation() -> Conversation<With, Shape> {
    let column = |(name, expression): (&str, &str)| KeyColumn {
        name: name.into(),
        expression: expression.into(),
    };
    let ids = Ids {
        key: [
            ("visitor", "domain_userid"),
            ("day", "derived_tstamp::date"),
        ]
        .map(column)
        .into(),
        batches: "batches".into(),
        bounded: true,
        contexts: vec![],
        all: true,
        ..Ids::default()
    };
    let columns = [
        "event_id",
        "event_name",
        "derived_tstamp",
        "collector_tstamp",
        "mkt_campaign",
        "page_url",
    ];
    Conversation::new(shape, WITH)
        .about("visitor_day_ids", &ids)
        .columns("atomic.events", &columns)
}

#[test]
fn it_wants_the_events_of_the_ids_in_an_order_without_ties() {
    conversation().check_golden("sql/shape.postgres.sql");
    let failure = conversation()
        .source(&SOURCE.replace("\"event-id\": \"event_id\",", ""))
        .outcome()
        .0
        .unwrap_err();
    assert_eq!(failure.code, "no-event-id");
}

#[test]
fn a_session_ends_by_inactivity_by_another_campaign_and_at_midnight() {
    let reduction = Reduction::of::<VisitorDay>(WITH).table(
        "visitor | day        | at                  | id | event     | campaign | source_time
         a       | 2024-01-01 | 2024-01-01 23:50:00 | 1  | page_view | NULL     | 2024-01-01 23:50:01
         a       | 2024-01-02 | 2024-01-02 00:05:00 | 2  | page_view | NULL     | 2024-01-02 00:05:01
         a       | 2024-01-02 | 2024-01-02 00:35:00 | 3  | page_ping | NULL     | 2024-01-02 00:35:01
         a       | 2024-01-02 | 2024-01-02 01:05:01 | 4  | page_view | spring   | 2024-01-02 01:05:02
         a       | 2024-01-02 | 2024-01-02 01:06:00 | 5  | NULL      | NULL     | 2024-01-02 01:04:00
         a       | 2024-01-02 | 2024-01-02 01:07:00 | 6  | page_view | spring   | 2024-01-02 01:07:01
         a       | 2024-01-02 | 2024-01-02 01:08:00 | 7  | page_view | summer   | 2024-01-02 01:08:01
         b       | 2024-01-02 | 2024-01-02 09:00:00 | 8  | page_view | NULL     | 2024-01-02 09:00:01
         b       | 2024-01-02 | 2024-01-02 09:01:00 | 9  | page_view | spring   | 2024-01-02 09:01:01",
    );
    reduction.check_table(
        "visitor | day        | session | began_by   | start_time          | end_time            | events | page_views | campaign | first_time
         a       | 2024-01-01 | 1       | first      | 2024-01-01 23:50:00 | 2024-01-01 23:50:00 | 1      | 1          | NULL     | 2024-01-01 23:50:01
         a       | 2024-01-02 | 1       | first      | 2024-01-02 00:05:00 | 2024-01-02 00:35:00 | 2      | 1          | NULL     | 2024-01-02 00:05:01
         a       | 2024-01-02 | 2       | inactivity | 2024-01-02 01:05:01 | 2024-01-02 01:07:00 | 3      | 2          | spring   | 2024-01-02 01:04:00
         a       | 2024-01-02 | 3       | campaign   | 2024-01-02 01:08:00 | 2024-01-02 01:08:00 | 1      | 1          | summer   | 2024-01-02 01:08:01
         b       | 2024-01-02 | 1       | first      | 2024-01-02 09:00:00 | 2024-01-02 09:00:00 | 1      | 1          | NULL     | 2024-01-02 09:00:01
         b       | 2024-01-02 | 2       | campaign   | 2024-01-02 09:01:00 | 2024-01-02 09:01:00 | 1      | 1          | spring   | 2024-01-02 09:01:01",
    );
    reduction.check_invariance(1);
}

/// Events of a few visitors on two days, many at the same time, few of them with a campaign.
fn events(dice: &mut Dice, ids: &'static [String]) -> Vec<Event<'static>> {
    let event = |(at, dice): (usize, &mut Dice)| {
        let day = Date(19_000 + dice.below(2) as i32);
        let time = day.start().plus_us(dice.below(90) as i64 * 60 * SECOND_US);
        let words = [Some("page_view"), Some("page_ping"), None];
        Event {
            visitor: ["a", "b", "c"][dice.place(3)],
            day,
            at: time,
            // Some in two copies.
            id: &ids[at - at % (1 + dice.place(2))],
            event: words[dice.place(words.len())],
            campaign: dice
                .percent(20)
                .then(|| ["spring", "summer"][dice.place(2)]),
            source_time: time.plus_us(dice.below(90_000_000) as i64),
        }
    };
    let count = dice.place(ids.len());
    (0..count).map(|at| event((at, dice))).collect()
}

/// The sessions of one visitor's day, found by looking for their beginnings first.
fn sessions<'a>(events: &[Event<'a>], inactivity_us: i64) -> Vec<Session<'a>> {
    let mut events = events.to_vec();
    events.sort_by_key(|event| (event.at, event.id, event.campaign.is_none(), event.campaign));
    let mut begins: Vec<(usize, &'static str)> = vec![(0, "first")];
    for at in 1..events.len() {
        let (first, _) = *begins.last().expect("there is one");
        if events[at].at.0 - events[at - 1].at.0 > inactivity_us {
            begins.push((at, "inactivity"));
        } else if events[at]
            .campaign
            .is_some_and(|campaign| Some(campaign) != events[first].campaign)
        {
            begins.push((at, "campaign"));
        }
    }
    let ends = begins
        .iter()
        .skip(1)
        .map(|(at, _)| *at)
        .chain([events.len()]);
    let session = |(number, ((from, began_by), to)): (usize, (&(usize, &'static str), usize))| {
        let part = &events[*from..to];
        Session {
            visitor: part[0].visitor,
            day: part[0].day,
            session: 1 + number as i64,
            began_by,
            start_time: part[0].at,
            end_time: part[part.len() - 1].at,
            events: part.len() as i64,
            page_views: part
                .iter()
                .filter(|event| event.event == Some("page_view"))
                .count() as i64,
            campaign: part[0].campaign,
            first_time: part
                .iter()
                .map(|event| event.source_time)
                .min()
                .expect("a session has events"),
        }
    };
    begins.iter().zip(ends).enumerate().map(session).collect()
}

#[test]
fn it_equals_a_search_for_beginnings_however_it_is_cut() {
    let ids: Vec<String> = (0..120)
        .map(|id| format!("{:04}", id * 7919 % 10_000))
        .collect();
    let ids: &'static [String] = ids.leak();
    for seed in 0..40 {
        let mut dice = Dice::new(seed);
        let events = events(&mut dice, ids);
        let minutes = 1 + dice.below(12);
        let with = WITH.replace("30 minutes", &format!("{minutes} minutes"));
        let mut keys: Vec<_> = events
            .iter()
            .map(|event| (event.visitor, event.day))
            .collect();
        keys.sort();
        keys.dedup();
        let of_key = |key: &(&str, Date)| {
            let of_day = events
                .iter()
                .filter(|event| (event.visitor, event.day) == *key);
            sessions(
                &of_day.copied().collect::<Vec<_>>(),
                minutes as i64 * 60 * SECOND_US,
            )
        };
        let expected: Vec<_> = keys.iter().flat_map(of_key).collect();
        let reduction =
            Reduction::of::<VisitorDay>(&with).rows::<Event<'_>>(events.iter().copied());
        reduction.check_rows::<Session<'_>>(expected);
        reduction.check_invariance(seed);
    }
}
