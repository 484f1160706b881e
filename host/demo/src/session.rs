//! One session: its pages, what happens on them, and when each of its rows lands.

use std::sync::Arc;

use uuid::Uuid;

use crate::catalogue::{Catalogue, HOST};
use crate::copy_text::{raw, raw_or_null};
use crate::dice::Dice;
use crate::shares::*;
use crate::visitors::Visitor;

/// What all rows of a session have in common.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: Uuid,
    pub(crate) domain_userid: Uuid,
    pub(crate) index: u32,
    pub(crate) network_userid: Option<Uuid>,
    pub(crate) user_id: Option<String>,
    pub(crate) country: &'static str,
    /// `useragent` to `dvce_type`, as `COPY` text.
    pub(crate) device_columns: Vec<u8>,
    pub(crate) view_width: u32,
    pub(crate) view_height: u32,
}

/// What all rows of a page view have in common.
#[derive(Debug)]
pub(crate) struct PageView {
    pub(crate) session: Arc<Session>,
    pub(crate) id: Uuid,
    /// `page_url` to `mkt_campaign`, as `COPY` text.
    pub(crate) page_columns: Vec<u8>,
    pub(crate) doc_height: u32,
    pub(crate) logged_in: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    PageView,
    /// The n-th ping of its page view, from 1.
    PagePing(u16),
    LinkClick,
    /// The number picks the action.
    Struct(u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ids {
    All,
    NoSession,
    NoSessionNoVisitor,
}

/// A row of `atomic.events`, with its contexts. Times are milliseconds since 1970, UTC.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) view: Arc<PageView>,
    pub(crate) kind: Kind,
    pub(crate) ids: Ids,
    /// 0, 1 or 2.
    pub(crate) contexts: u8,
    pub(crate) event_id: Uuid,
    pub(crate) created_ms: i64,
    pub(crate) sent_ms: i64,
    pub(crate) collector_ms: i64,
    /// When it reaches the pipeline, which decides the batch.
    pub(crate) arrival_ms: i64,
}

/// Draws sessions. Each is drawn whole, at its start.
#[derive(Debug)]
pub(crate) struct Sessions {
    pub(crate) late_ms_max: i64,
    pub(crate) pause_ms_max: i64,
}

impl Sessions {
    /// Hands each row of a session that begins at `start_ms` to `land`, in the order of the events.
    pub(crate) fn draw(
        &self,
        start_ms: i64,
        visitor: Visitor,
        catalogue: &Catalogue,
        dice: &mut Dice,
        mut land: impl FnMut(Row),
    ) {
        let clock_error_ms = visitor.clock_error_ms;
        let (known_before, known_after) = match &visitor.user {
            Some(user) => (
                visitor.session_index > user.known_from_session,
                visitor.session_index >= user.known_from_session,
            ),
            None => (false, false),
        };
        let session = Arc::new(session_of(visitor, catalogue, dice));
        let entry = dice.popular(catalogue.entries.len());
        let mut pages = 1 + dice.run(SESSION_NEXT_PAGE_PER_100K, SESSION_PAGES_MAX - 1);
        let mut pause_after = None;
        if dice.chance(SESSION_RESUMED_PER_100K) {
            pages = pages.max(2);
            pause_after = Some(1 + dice.below(pages - 1));
        }

        let mut at = start_ms;
        let mut previous = None;
        for number in 1..=pages {
            let page = dice.popular(catalogue.pages.len());
            let view = Arc::new(PageView {
                session: Arc::clone(&session),
                id: dice.uuid(),
                page_columns: page_columns(catalogue, page, previous, entry),
                doc_height: catalogue.pages[page].height,
                logged_in: if number == 1 {
                    known_before
                } else {
                    known_after
                },
            });
            at += self.draw_page(at, clock_error_ms, &view, dice, &mut land);
            at += dice.between(300, 5_000);
            if pause_after == Some(number) {
                at += dice.between(HOUR_MS / 2, self.pause_ms_max);
            }
            previous = Some(page);
        }
    }

    /// Draws the events of one page view and returns how long it was looked at.
    fn draw_page(
        &self,
        at: i64,
        clock_error_ms: i64,
        view: &Arc<PageView>,
        dice: &mut Dice,
        land: &mut impl FnMut(Row),
    ) -> i64 {
        let mut event = |dice: &mut Dice, at: i64, kind: Kind| {
            self.draw_event(at, clock_error_ms, kind, view, dice, land);
        };
        event(dice, at, Kind::PageView);
        let bounced = dice.chance(PAGE_BOUNCED_PER_100K);
        let pings = if bounced {
            0
        } else {
            1 + dice.run(PING_NEXT_PER_100K, PAGE_PINGS_MAX - 1)
        };
        for number in 1..=pings {
            let jitter_ms = dice.between(0, 200);
            event(
                dice,
                at + i64::from(number) * PING_EVERY_MS + jitter_ms,
                Kind::PagePing(number as u16),
            );
        }
        let stay_ms = i64::from(pings) * PING_EVERY_MS + dice.between(500, PING_EVERY_MS);
        for _ in 0..dice.run(CLICK_NEXT_PER_100K, PAGE_CLICKS_MAX) {
            let kind = if dice.chance(CLICK_STRUCT_PER_100K) {
                Kind::Struct(dice.below(1_000) as u16)
            } else {
                Kind::LinkClick
            };
            let clicked_at = at + dice.between(200, stay_ms);
            event(dice, clicked_at, kind);
        }
        stay_ms
    }

    fn draw_event(
        &self,
        at: i64,
        clock_error_ms: i64,
        kind: Kind,
        view: &Arc<PageView>,
        dice: &mut Dice,
        land: &mut impl FnMut(Row),
    ) {
        let kept_ms = if dice.chance(EVENT_OFFLINE_PER_100K) {
            dice.between(MINUTE_MS, OFFLINE_MS_MAX)
        } else {
            dice.between(2, 400)
        };
        let collector_ms = at + kept_ms + dice.between(10, 250);
        let row = Row {
            view: Arc::clone(view),
            kind,
            ids: draw_ids(dice),
            contexts: draw_contexts(dice),
            event_id: dice.uuid(),
            created_ms: at + clock_error_ms,
            sent_ms: at + kept_ms + clock_error_ms,
            collector_ms,
            arrival_ms: collector_ms + self.draw_lateness_ms(dice),
        };
        // The chance is among all rows, duplicates included: of 1000 rows 5 are duplicates, so 5 in
        // 995 events have one.
        const PER_100K: u32 = ROW_DUPLICATE_PER_100K * 100_000 / (100_000 - ROW_DUPLICATE_PER_100K);
        if dice.chance(PER_100K) {
            land(duplicate_of(&row, dice));
        }
        land(row);
    }

    fn draw_lateness_ms(&self, dice: &mut Dice) -> i64 {
        let mut draw = dice.below(100_000);
        for (per_100k, least_ms, most_ms) in EVENT_LATE {
            if draw < per_100k {
                return dice.between(least_ms, most_ms).min(self.late_ms_max);
            }
            draw -= per_100k;
        }
        if draw < EVENT_DAYS_LATE_PER_100K {
            return dice
                .between(24 * HOUR_MS, self.late_ms_max)
                .min(self.late_ms_max);
        }
        0
    }
}

fn session_of(visitor: Visitor, catalogue: &Catalogue, dice: &mut Dice) -> Session {
    let device = &catalogue.devices[visitor.device];
    Session {
        id: dice.uuid(),
        domain_userid: visitor.domain_userid,
        index: visitor.session_index,
        network_userid: visitor.network_userid,
        user_id: visitor.user.map(|user| user.id),
        country: catalogue.countries[visitor.country].code,
        device_columns: catalogue.device_columns(visitor.device, visitor.country),
        view_width: device.width,
        view_height: device.height,
    }
}

/// Columns `page_url` to `mkt_campaign` of a page reached from `previous`, or by an entry if it is
/// the first.
fn page_columns(
    catalogue: &Catalogue,
    page: usize,
    previous: Option<usize>,
    entry: usize,
) -> Vec<u8> {
    let page = &catalogue.pages[page];
    let entry = &catalogue.entries[entry];
    let mut out = Vec::with_capacity(384);
    out.extend_from_slice(&page.url);
    if previous.is_none() {
        out.extend_from_slice(&entry.query);
    }
    out.push(b'\t');
    raw(&mut out, &page.title);
    let referrer = match previous {
        Some(previous) => Some(&catalogue.pages[previous].url[..]),
        None => entry.referrer_url.as_deref(),
    };
    raw_or_null(&mut out, referrer);
    raw(&mut out, HOST.as_bytes());
    raw(&mut out, &page.path);
    match previous {
        Some(_) => {
            raw(&mut out, HOST.as_bytes());
            raw(&mut out, b"internal");
            out.extend_from_slice(b"\\N\t\\N\t\\N\t\\N\t");
        }
        None => out.extend_from_slice(&entry.columns),
    }
    out
}

fn draw_ids(dice: &mut Dice) -> Ids {
    if !dice.chance(EVENT_NO_SESSION_PER_100K) {
        Ids::All
    } else if dice.chance(NO_SESSION_NO_VISITOR_PER_100K) {
        Ids::NoSessionNoVisitor
    } else {
        Ids::NoSession
    }
}

fn draw_contexts(dice: &mut Dice) -> u8 {
    let draw = dice.below(100_000);
    if draw < EVENT_NO_CONTEXT_PER_100K {
        0
    } else if draw < EVENT_NO_CONTEXT_PER_100K + EVENT_TWO_CONTEXTS_PER_100K {
        2
    } else {
        1
    }
}

fn duplicate_of(row: &Row, dice: &mut Dice) -> Row {
    const LOADED_AGAIN: u32 = DUPLICATE_SAME_BATCH_PER_100K + DUPLICATE_LOADED_AGAIN_PER_100K;
    const SECONDS_LATER: u32 = LOADED_AGAIN + DUPLICATE_SECONDS_LATER_PER_100K;
    let mut duplicate = row.clone();
    let draw = dice.below(100_000);
    if draw < DUPLICATE_SAME_BATCH_PER_100K {
        return duplicate;
    }
    let later_ms = if (LOADED_AGAIN..SECONDS_LATER).contains(&draw) {
        dice.between(100, MINUTE_MS)
    } else {
        dice.between(HOUR_MS, DUPLICATE_MS_MAX)
    };
    duplicate.arrival_ms += later_ms;
    if draw >= LOADED_AGAIN {
        // The same payload again, as proxies and virus scanners send it: device times stay, so
        // `derived_tstamp` moves along.
        duplicate.collector_ms += later_ms;
    }
    duplicate
}
