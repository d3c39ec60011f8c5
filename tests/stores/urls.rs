//! What [`open`] takes and refuses, and what it says of it. No server is needed.

use std::{sync::Mutex, time::Duration};

use wgpu_kv_cache::{
    Error, StoreError,
    store::{Options, open},
};

/// What must not be repeated.
const SECRETS: [&str; 3] = ["open-sesame", "p4ss", "t0ken"];

pub fn tests() -> Vec<crate::Test> {
    use crate::urls;
    crate::tests!(&[], urls: folders, texts_that_are_no_urls, features, options_out_of_place, secrets_are_not_repeated)
}

fn refused(url: &str, options: &Options) -> StoreError {
    match open(url, options) {
        Err(Error::Store(error)) => error,
        Err(error) => panic!("{url}: {error}"),
        Ok(_) => panic!("{url} is open"),
    }
}

pub fn folders() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("of pages").to_str().unwrap().to_owned();
    let store = open(&path, &Options::new()).unwrap();
    crate::conformance::conforms(&|| open(&path, &Options::new().budget(1 << 30)).unwrap());
    assert_eq!(store.exists(&[crate::conformance::key(500)]).unwrap(), [true]);
    assert!(matches!(refused("/proc/none", &Options::new()), StoreError::Open { .. }));
    let file = folder.path().join("a file");
    std::fs::write(&file, "not a folder").unwrap();
    let refused = refused(file.to_str().unwrap(), &Options::new());
    assert!(matches!(&refused, StoreError::Open { reason, .. } if &**reason == "it is a file"), "{refused:?}");
}

pub fn texts_that_are_no_urls() {
    let url = |text: &str| match refused(text, &Options::new()) {
        StoreError::Url { reason } => reason.into_string(),
        error => panic!("{text:?}: {error:?}"),
    };
    assert!(url("").contains("empty"));
    assert!(url("redis:/host").contains("://") && url("S3:bucket").contains("://"));
    assert!(url("user:p4ss@host:6379").contains("password"));
    assert!(url("cache.internal:6379").contains("redis://") && url("localhost:6379/0").contains("redis://"));
    assert!(
        url("://host").contains("scheme") && url("a b://host").contains("scheme") && url("7z://a").contains("scheme")
    );
    for (text, named) in
        [("ftp://host/a", "ftp"), ("HTTP://host", "http"), ("memory://", "memory"), ("rediss2://h", "rediss2")]
    {
        let error = refused(text, &Options::new());
        assert!(matches!(&error, StoreError::Scheme { scheme, .. } if &**scheme == named), "{error:?}");
        assert!(error.to_string().contains("redis, rediss") && error.to_string().contains("s3"), "{error}");
    }
    #[cfg(feature = "redis")]
    {
        assert!(url("redis://host:port/").contains("port") && url("redis://[::1").contains("IPv6"));
        for secret in ["redis://:pa/ss@host:1/0", "redis://:pa?ss@host:1/0", "rediss://u:pa#ss@host:1/0"] {
            let reason = url(secret);
            assert!(reason.contains("%2F, %3F, %23 and %40") && !reason.contains("ss@"), "{reason}");
        }
    }
    #[cfg(feature = "object-store")]
    {
        assert!(url("s3://bucket:x/").contains("port"));
        assert!(url("https://example.com/a").contains("AWS_ENDPOINT"));
        assert!(matches!(refused("s3:///a", &Options::new()), StoreError::Url { .. } | StoreError::Scheme { .. }));
    }
}

pub fn features() {
    for (url, feature, compiled) in [
        ("redis://127.0.0.1:1", "redis", cfg!(feature = "redis")),
        ("valkey://127.0.0.1:1", "redis", cfg!(feature = "redis")),
        ("s3://bucket", "object-store", cfg!(feature = "object-store")),
        ("gs://bucket", "object-store", cfg!(feature = "object-store")),
        ("az://container", "object-store", cfg!(feature = "object-store")),
    ] {
        if !compiled {
            let error = refused(url, &Options::new());
            assert!(matches!(error, StoreError::Feature { feature: needed, .. } if needed == feature), "{error:?}");
            assert!(error.to_string().contains(feature), "{error}");
        }
    }
    if cfg!(feature = "redis") && !cfg!(feature = "redis-tls") {
        let error = refused("rediss://127.0.0.1:1", &Options::new());
        assert_eq!(error, StoreError::Feature { scheme: "rediss".into(), feature: "redis-tls" });
    }
    #[cfg(feature = "redis-tls")]
    assert!(matches!(refused("rediss://127.0.0.1:1", &Options::new()), StoreError::Open { .. }));
}

pub fn options_out_of_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let second = Duration::from_secs(1);
    let mut urls = vec![path];
    urls.extend(cfg!(feature = "redis").then_some("redis://127.0.0.1:1"));
    urls.extend(cfg!(feature = "object-store").then_some("s3://bucket"));
    for url in urls {
        assert_eq!(refused(url, &Options::new().budget(0)), StoreError::NoBudget);
        for ttl in [Duration::ZERO, Duration::from_micros(999)] {
            assert_eq!(refused(url, &Options::new().ttl(ttl)), StoreError::Ttl { ttl });
        }
        for (options, timeout) in [
            (Options::new().connect_timeout(Duration::ZERO), "connect"),
            (Options::new().response_timeout(Duration::ZERO), "response"),
            (Options::new().call_timeout(Duration::ZERO), "call"),
        ] {
            assert_eq!(refused(url, &options), StoreError::Timeout { timeout });
        }
    }
    let out_of_place = |url, options| match refused(url, &options) {
        StoreError::Option { option, .. } => option,
        error => panic!("{url}: {error:?}"),
    };
    assert_eq!(out_of_place(path, Options::new().ttl(second)), "ttl");
    assert_eq!(out_of_place(path, Options::new().prefix("a")), "prefix");
    assert_eq!(out_of_place(path, Options::new().setting("AWS_REGION", "a")), "settings");
    #[cfg(feature = "redis")]
    {
        assert_eq!(out_of_place("redis://127.0.0.1:1", Options::new().budget(1)), "budget");
        assert_eq!(out_of_place("redis://127.0.0.1:1", Options::new().setting("a", "b")), "settings");
    }
    #[cfg(feature = "object-store")]
    {
        assert_eq!(out_of_place("s3://bucket", Options::new().budget(1)), "budget");
        assert_eq!(out_of_place("gs://bucket", Options::new().ttl(second)), "ttl");
    }
}

static LOGGED: Mutex<String> = Mutex::new(String::new());

/// Keeps all that any crate logs.
struct Log;

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        LOGGED.lock().unwrap().push_str(&format!("{} {}\n", record.target(), record.args()));
    }

    fn flush(&self) {}
}

pub fn secrets_are_not_repeated() {
    log::set_logger(&Log).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let short = Duration::from_millis(200);
    let quick = Options::new().connect_timeout(short).response_timeout(short).call_timeout(short);
    let account = quick.clone().setting("AWS_ENDPOINT", "http://127.0.0.1:1?sig=t0ken").setting("AWS_REGION", "a");
    let account = account.setting("AWS_ACCESS_KEY_ID", "id").setting("AWS_SECRET_ACCESS_KEY", "open-sesame");
    let azure = quick.clone().setting("AZURE_STORAGE_ACCOUNT_NAME", "a").setting("AZURE_STORAGE_SAS_KEY", "sig=t0ken");
    let azure = azure.setting("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:1");
    let urls = [
        ("redis://user:open-sesame@127.0.0.1:1/0", &quick),
        ("redis://:open-sesame@127.0.0.1:1?password=t0ken#p4ss", &quick),
        // What is not encoded, or forgotten.
        ("redis://:p4ss/open-sesame@127.0.0.1:1/0", &quick),
        ("redis://user:12/open-sesame@127.0.0.1:1/0", &quick),
        ("redis://user:12?open-sesame@127.0.0.1:1/0", &quick),
        ("redis://user:12#open-sesame@127.0.0.1:1/0", &quick),
        ("redis://:open-sesame", &quick),
        ("redis://user:open-sesame@", &quick),
        ("redis://user:open-sesame@127.0.0.1:1/x", &quick),
        ("redis+unix:///none?pass=open-sesame", &quick),
        ("rediss://user:open-sesame@127.0.0.1:1", &quick),
        ("ftp://user:open-sesame@127.0.0.1:1", &quick),
        (":open-sesame@127.0.0.1:1", &quick),
        ("redis:user:open-sesame@127.0.0.1", &quick),
        ("s3://user:open-sesame@bucket/a?x=t0ken", &account),
        ("s3://bucket", &account),
        ("az://container", &azure),
        ("https://user:p4ss@example.com/a?sig=t0ken", &quick),
        ("gs://bucket", &quick.clone().setting("GOOGLE_SERVICE_ACCOUNT_KEY", "open-sesame")),
    ];
    for (url, options) in urls {
        let told = match open(url, options) {
            Err(error) => format!("{error} {error:?} {options:?}"),
            Ok(_) => panic!("{url} is open"),
        };
        for secret in SECRETS {
            assert!(!told.contains(secret), "{url}: {told}");
        }
        assert!(!told.contains("user"), "{url}: {told}");
    }
    let logged = LOGGED.lock().unwrap();
    assert!(SECRETS.iter().all(|secret| !logged.contains(secret)), "{logged}");
}
