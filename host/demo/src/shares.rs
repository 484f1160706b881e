//! How often each thing happens: the numbers that make the stream what it is.
//!
//! `_PER_100K` counts among 100,000 of whatever the name begins with; `_MS` is milliseconds. The
//! tests hold the stream to these numbers.

/// After each page of a session, the chance of one more: three pages on average.
pub const SESSION_NEXT_PAGE_PER_100K: u32 = 66_667;
/// Most pages of one session.
pub const SESSION_PAGES_MAX: u32 = 30;
/// Sessions that are taken up again after a pause of half an hour or more: a laptop opened the next
/// morning.
pub const SESSION_RESUMED_PER_100K: u32 = 600;

/// Time between two page pings.
pub const PING_EVERY_MS: i64 = 10_000;
/// Page views left before the first ping.
pub const PAGE_BOUNCED_PER_100K: u32 = 15_000;
/// After each ping, the chance of one more: about ten pings on a page that was not left at once.
pub const PING_NEXT_PER_100K: u32 = 90_300;
/// Most pings of one page view (ten minutes).
pub const PAGE_PINGS_MAX: u32 = 60;
/// After each click on a page, the chance of one more: about two a page.
pub const CLICK_NEXT_PER_100K: u32 = 69_000;
/// Most clicks on one page view.
pub const PAGE_CLICKS_MAX: u32 = 20;
/// Clicks that are structured events (`event` = `struct`); the others are link clicks.
pub const CLICK_STRUCT_PER_100K: u32 = 45_000;

/// Visitors with a user id at some time. It is known from one of their sessions on, and there only
/// after the first page, so that earlier rows of the same visitor have none.
pub const VISITOR_WITH_USER_PER_100K: u32 = 25_000;
/// Visitors without a network user id, since their browser refuses third-party cookies.
pub const VISITOR_NO_NETWORK_ID_PER_100K: u32 = 30_000;
/// Visitors whose device clock is wrong by up to an hour; those of the others are right to two
/// seconds.
pub const VISITOR_CLOCK_WRONG_PER_100K: u32 = 5_000;

/// Events without a session id: switched to anonymous tracking, or sent by a server.
pub const EVENT_NO_SESSION_PER_100K: u32 = 300;
/// Events without a session id that have no visitor id either.
pub const NO_SESSION_NO_VISITOR_PER_100K: u32 = 60_000;
/// Events kept on the device and sent later, by a minute up to [`OFFLINE_MS_MAX`]; `derived_tstamp`
/// corrects for it, `collector_tstamp` does not.
pub const EVENT_OFFLINE_PER_100K: u32 = 300;
/// Longest time an event is kept on its device: one day.
pub const OFFLINE_MS_MAX: i64 = 24 * HOUR_MS;
/// Events without a page context.
pub const EVENT_NO_CONTEXT_PER_100K: u32 = 300;
/// Events with two page contexts whose ids differ.
pub const EVENT_TWO_CONTEXTS_PER_100K: u32 = 100;

/// Events that arrive late, each with how late: `(per 100k, least ms, most ms)`. The rest lands in
/// the batch of its `collector_tstamp`. A last part is days late, up to
/// [`StreamOptions::late_days_max`](crate::StreamOptions::late_days_max): see
/// [`EVENT_DAYS_LATE_PER_100K`].
pub const EVENT_LATE: [(u32, i64, i64); 3] = [
    (1_500, MINUTE_MS, HOUR_MS),
    (700, HOUR_MS, 12 * HOUR_MS),
    (100, 12 * HOUR_MS, 24 * HOUR_MS),
];
/// Events that arrive between one day and the greatest lateness late.
pub const EVENT_DAYS_LATE_PER_100K: u32 = 50;

/// Rows that repeat the event id of another row.
pub const ROW_DUPLICATE_PER_100K: u32 = 500;
/// Duplicates that are the same row twice, in one batch.
pub const DUPLICATE_SAME_BATCH_PER_100K: u32 = 30_000;
/// Duplicates with the same `collector_tstamp` that land up to [`DUPLICATE_MS_MAX`] later: a file
/// loaded again.
pub const DUPLICATE_LOADED_AGAIN_PER_100K: u32 = 20_000;
/// Duplicates sent again within a minute, with a later `collector_tstamp`. What remains was sent
/// again after hours.
pub const DUPLICATE_SECONDS_LATER_PER_100K: u32 = 35_000;
/// The longest time between an event and its duplicate.
pub const DUPLICATE_MS_MAX: i64 = 12 * HOUR_MS;

/// Rows that a session brings on average, duplicates included. It spaces the sessions of a batch;
/// the number of rows does not depend on it.
pub const SESSION_ROWS_MEAN: u64 = 36;

/// Traffic of each hour of a day (UTC), relative to each other.
pub const HOUR_WEIGHTS: [u32; 24] = [
    30, 22, 16, 12, 11, 14, 24, 42, 62, 76, 84, 88, 90, 86, 84, 85, 88, 94, 102, 112, 116, 104, 78,
    50,
];
/// Traffic of a Saturday or Sunday, in percent of another day.
pub const WEEKEND_PERCENT: u32 = 72;

/// Classes of visitors: `(sessions of each visitor, hours between two of them)`. Each class has the
/// same number of sessions, hence half as many visitors as the one before: the tail of a Zipf law
/// with exponent 2.
pub const VISITOR_CLASSES: [(u32, u32); 8] = [
    (1, 24),
    (2, 9 * 24),
    (4, 7 * 24),
    (8, 4 * 24),
    (16, 2 * 24),
    (32, 24),
    (64, 12),
    (128, 5),
];

/// One minute.
pub const MINUTE_MS: i64 = 60_000;
/// One hour.
pub const HOUR_MS: i64 = 60 * MINUTE_MS;
