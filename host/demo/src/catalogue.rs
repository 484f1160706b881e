//! What visitors meet and bring: pages, ways in, devices, countries. All of it is escaped for
//! `COPY` once, here.

use crate::copy_text::{escaped, number, raw, raw_or_null};

pub(crate) const HOST: &str = "www.example.com";

/// Titles with everything that a careless loader breaks on; titles of real pages have it too.
const SECTIONS: [(&str, &str); 6] = [
    ("shop/outdoor", "Tents & \"Bivouacs\""),
    ("shop/climbing", "Ropes, Harnesses — 50 % off"),
    ("blog", "C:\\>_ Field notes"),
    ("help", "How do I …?"),
    ("guides", "Été en montagne\t(tab, by accident)"),
    ("stories", "山の話 'O\\'Neill'"),
];
const PAGES_PER_SECTION: usize = 80;

#[derive(Debug)]
pub(crate) struct Catalogue {
    pub(crate) pages: Vec<Page>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) devices: Vec<Device>,
    pub(crate) countries: Vec<Country>,
}

#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) url: Vec<u8>,
    pub(crate) path: Vec<u8>,
    pub(crate) title: Vec<u8>,
    /// Pixels.
    pub(crate) height: u32,
}

/// How a session begins.
#[derive(Debug)]
pub(crate) struct Entry {
    /// What the first page's URL ends with.
    pub(crate) query: Vec<u8>,
    pub(crate) referrer_url: Option<Vec<u8>>,
    /// `refr_urlhost` to `refr_source`, then `mkt_medium` to `mkt_campaign`.
    pub(crate) columns: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Device {
    useragent: &'static str,
    browser: &'static str,
    os: &'static str,
    kind: &'static str,
    pub(crate) width: u32,
    pub(crate) height: u32,
}

#[derive(Debug)]
pub(crate) struct Country {
    pub(crate) code: &'static str,
    language: &'static str,
    timezone: &'static str,
}

impl Catalogue {
    pub(crate) fn new() -> Self {
        Self {
            pages: pages(),
            entries: entries(),
            devices: devices(),
            countries: countries(),
        }
    }

    /// Returns columns `useragent` to `dvce_type`.
    pub(crate) fn device_columns(&self, device: usize, country: usize) -> Vec<u8> {
        let (device, country) = (&self.devices[device], &self.countries[country]);
        let mut out = Vec::with_capacity(256);
        raw(&mut out, &escaped(device.useragent));
        raw(&mut out, device.browser.as_bytes());
        raw(&mut out, country.language.as_bytes());
        number(&mut out, device.width);
        number(&mut out, device.height);
        raw(&mut out, device.os.as_bytes());
        raw(&mut out, country.timezone.as_bytes());
        raw(&mut out, device.kind.as_bytes());
        out
    }
}

/// The most popular first: the home page, then the sections in turn.
fn pages() -> Vec<Page> {
    let page = |path: String, title: String, height: usize| Page {
        url: escaped(&format!("https://{HOST}{path}")),
        path: escaped(&path),
        title: escaped(&title),
        height: height as u32,
    };
    let mut pages = vec![page(
        "/".to_owned(),
        "Example — everything for outside".to_owned(),
        2_400,
    )];
    for number in 1..=PAGES_PER_SECTION {
        for (section, title) in SECTIONS {
            let height = 1_200 + number * 97 % 6_000;
            pages.push(page(
                format!("/{section}/{number}"),
                format!("{title} | {number}"),
                height,
            ));
        }
    }
    pages
}

/// The most frequent first.
fn entries() -> Vec<Entry> {
    let entry = |referrer: Option<(&str, &str, &str, &str)>,
                 campaign: Option<(&str, &str, &str)>| {
        let mut columns = Vec::new();
        raw_or_null(
            &mut columns,
            referrer.map(|(_, host, _, _)| host.as_bytes()),
        );
        raw_or_null(
            &mut columns,
            referrer.map(|(_, _, medium, _)| medium.as_bytes()),
        );
        raw_or_null(
            &mut columns,
            referrer.map(|(_, _, _, source)| source.as_bytes()),
        );
        raw_or_null(
            &mut columns,
            campaign.map(|(medium, _, _)| medium.as_bytes()),
        );
        raw_or_null(
            &mut columns,
            campaign.map(|(_, source, _)| source.as_bytes()),
        );
        raw_or_null(&mut columns, campaign.map(|(_, _, name)| name.as_bytes()));
        let query = campaign.map_or_else(String::new, |(medium, source, name)| {
            format!("?utm_medium={medium}&utm_source={source}&utm_campaign={name}")
        });
        Entry {
            query: escaped(&query),
            referrer_url: referrer.map(|(url, ..)| escaped(url)),
            columns,
        }
    };
    let google = (
        "https://www.google.com/",
        "www.google.com",
        "search",
        "Google",
    );
    let bing = (
        "https://www.bing.com/search?q=tent",
        "www.bing.com",
        "search",
        "Bing",
    );
    let facebook = (
        "https://l.facebook.com/l.php",
        "l.facebook.com",
        "social",
        "Facebook",
    );
    let forum = (
        "https://forum.example.org/t/4711",
        "forum.example.org",
        "unknown",
        "Forum",
    );
    vec![
        entry(None, None),
        entry(Some(google), None),
        entry(Some(google), Some(("cpc", "google", "summer_sale"))),
        entry(Some(facebook), Some(("social", "facebook", "video_may"))),
        entry(None, Some(("email", "newsletter", "weekly"))),
        entry(Some(facebook), None),
        entry(Some(bing), None),
        entry(Some(bing), Some(("cpc", "bing", "summer_sale"))),
        entry(Some(forum), None),
        entry(None, Some(("email", "newsletter", "welcome"))),
    ]
}

/// The most frequent first.
fn devices() -> Vec<Device> {
    const MOBILE_WEBKIT: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) \
         AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.2 Mobile/15E148 Safari/604.1";
    const ANDROID: &str = "Mozilla/5.0 (Linux; Android 14; Pixel 8) \
         AppleWebKit/537.36 (KHTML, like Gecko) Chrome/121.0.0.0 Mobile Safari/537.36";
    const WINDOWS: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) \
         AppleWebKit/537.36 (KHTML, like Gecko) Chrome/121.0.0.0 Safari/537.36";
    const MAC: &str = "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_3) \
         AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.2 Safari/605.1.15";
    const LINUX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:122.0) Gecko/20100101 Firefox/122.0";
    let device = |useragent, browser, os, kind, width, height| Device {
        useragent,
        browser,
        os,
        kind,
        width,
        height,
    };
    vec![
        device(ANDROID, "Chrome", "Android", "Mobile", 412, 915),
        device(MOBILE_WEBKIT, "Safari", "iOS", "Mobile", 393, 852),
        device(WINDOWS, "Chrome", "Windows", "Computer", 1_920, 969),
        device(WINDOWS, "Chrome", "Windows", "Computer", 1_536, 730),
        device(MAC, "Safari", "Mac OS X", "Computer", 1_440, 789),
        device(MOBILE_WEBKIT, "Safari", "iOS", "Tablet", 820, 1_180),
        device(LINUX, "Firefox", "Linux", "Computer", 2_560, 1_307),
    ]
}

/// The most frequent first.
fn countries() -> Vec<Country> {
    [
        ("US", "en-US", "America/New_York"),
        ("GB", "en-GB", "Europe/London"),
        ("DE", "de-DE", "Europe/Berlin"),
        ("FR", "fr-FR", "Europe/Paris"),
        ("IN", "en-IN", "Asia/Kolkata"),
        ("BR", "pt-BR", "America/Sao_Paulo"),
        ("AT", "de-AT", "Europe/Vienna"),
        ("JP", "ja-JP", "Asia/Tokyo"),
        ("NZ", "en-NZ", "Pacific/Auckland"),
    ]
    .map(|(code, language, timezone)| Country {
        code,
        language,
        timezone,
    })
    .into()
}
