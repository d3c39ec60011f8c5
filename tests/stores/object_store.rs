//! [`ObjectStore`], with a server that speaks as S3 does.

use std::{
    io::ErrorKind,
    net::TcpListener,
    sync::Arc,
    time::{Duration, Instant},
};

use wgpu_kv_cache::{
    Error, StoreError,
    store::{ObjectKey, ObjectStore, Options, Store},
};

use crate::{
    conformance::{conforms, key, object},
    proxy::{Fault, Proxy},
    servers::{Server, free_port},
};

/// What a call may take beyond its timeout on a machine that does other things too.
const SLACK: Duration = Duration::from_secs(6);
const SECRET: &str = "secret-of-the-bucket";

pub fn tests() -> Vec<crate::Test> {
    use crate::object_store;
    crate::tests!(&["s3-server"], object_store:
        store_conforms,
        prefixes_part_stores,
        buckets_and_credentials_are_checked,
        servers_that_are_down_fail_quickly,
        calls_from_a_runtime_do_not_panic,
        spoilt_replies_fail_or_are_right,
    )
}

fn options(port: u16) -> Options {
    Options::new()
        .setting("AWS_ENDPOINT", format!("http://127.0.0.1:{port}"))
        .setting("AWS_ACCESS_KEY_ID", "key-of-the-bucket")
        .setting("AWS_SECRET_ACCESS_KEY", SECRET)
        .setting("AWS_REGION", "us-east-1")
        // A server in Python on a machine that does other things too.
        .response_timeout(Duration::from_secs(20))
        .call_timeout(Duration::from_secs(60))
}

fn refused(url: &str, options: &Options) -> StoreError {
    match ObjectStore::open(url, options) {
        Err(Error::Store(error)) => {
            assert!(!format!("{error}{error:?}").contains(SECRET), "{error:?}");
            error
        }
        Err(error) => panic!("{error}"),
        Ok(store) => panic!("{store:?} is open"),
    }
}

pub fn store_conforms() {
    let server = Server::s3(false);
    conforms(&|| Arc::new(ObjectStore::open("s3://pages/of/models", &options(server.port)).unwrap()));
    let store = ObjectStore::open("s3://pages/of/models", &options(server.port)).unwrap();
    assert!(!format!("{store:?}{:?}", options(server.port)).contains(SECRET), "{store:?}");
}

pub fn prefixes_part_stores() {
    let server = Server::s3(false);
    let open = |url: &str, prefix: &str| ObjectStore::open(url, &options(server.port).prefix(prefix)).unwrap();
    let stores = [open("s3://pages", ""), open("s3://pages/a", ""), open("s3://pages/a/", "b/c")];
    for store in &stores {
        assert_eq!(store.exists(&[key(1)]).unwrap(), [false]);
        store.put(&key(1), &object(&key(1), 10)).unwrap();
    }
    // The path and the prefix come one after the other.
    assert_eq!(open("s3://pages", "a").exists(&[key(1)]).unwrap(), [true]);
    assert_eq!(open("s3://pages/a/b", "c").exists(&[key(1)]).unwrap(), [true]);
    assert_eq!(open("s3://pages/a/b", "").exists(&[key(1)]).unwrap(), [false]);
    assert!(matches!(refused("s3://pages", &options(server.port).prefix("a/../b")), StoreError::Url { .. }));
}

pub fn buckets_and_credentials_are_checked() {
    let server = Server::s3(false);
    let error = refused("s3://no-such-bucket/a", &options(server.port));
    assert_eq!(error, StoreError::NoBucket { path: "s3://no-such-bucket/a".into() });
    let strict = Server::s3(true);
    let error = refused("s3://pages", &options(strict.port));
    let StoreError::Denied { path, reason } = &error else { panic!("{error:?}") };
    assert!(&**path == "s3://pages" && reason.contains("InvalidAccessKeyId"), "{error:?}");
    // One half of the credentials.
    let half = Options::new().setting("AWS_ACCESS_KEY_ID", "key").setting("AWS_SECRET_ACCESS_KEY_FILE", SECRET);
    if std::env::var_os("AWS_SECRET_ACCESS_KEY").is_none() {
        assert!(matches!(refused("s3://pages", &half), StoreError::Open { .. }));
    }
}

pub fn servers_that_are_down_fail_quickly() {
    let quick = |port| options(port).response_timeout(Duration::from_secs(1)).call_timeout(Duration::from_secs(3));
    let start = Instant::now();
    let error = refused("s3://pages", &quick(free_port()));
    assert!(matches!(&error, StoreError::Open { reason, .. } if reason.contains("no connection")), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let start = Instant::now();
    let error = refused("s3://pages", &quick(listener.local_addr().unwrap().port()));
    assert!(matches!(&error, StoreError::Open { reason, .. } if reason.contains("in time")), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(3) + SLACK, "{:?}", start.elapsed());
    // One that goes while the store is open, and comes back.
    let server = Server::s3(false);
    let port = server.port;
    let store = ObjectStore::open("s3://pages", &options(port).response_timeout(Duration::from_secs(3))).unwrap();
    store.put(&key(1), &object(&key(1), 10)).unwrap();
    drop(server);
    assert!(store.get(&key(1)).is_err() && store.exists(&[key(1)]).is_err() && store.put(&key(1), b"").is_err());
    let _server = Server::s3_at(port, false).unwrap();
    assert_eq!(store.get(&key(1)).unwrap(), None, "this server forgets");
    store.put(&key(1), &object(&key(1), 10)).unwrap();
    assert_eq!(store.get(&key(1)).unwrap().unwrap(), object(&key(1), 10));
}

pub fn calls_from_a_runtime_do_not_panic() {
    let server = Server::s3(false);
    let port = server.port;
    let call = move |number: u32| {
        let store = ObjectStore::open("s3://pages", &options(port)).unwrap();
        store.put(&key(number), &object(&key(number), 10)).unwrap();
        assert_eq!(store.get_many(&[key(number)]).unwrap(), [Some(object(&key(number), 10))]);
        assert_eq!(store.exists(&[key(number)]).unwrap(), [true]);
        store.remove(&key(number)).unwrap();
        assert_eq!(store.get(&key(number)).unwrap(), None);
        // It is dropped here, in the task.
    };
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap().block_on(async move { call(1) });
    let several = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    several.block_on(async move {
        let tasks: Vec<_> = (2..5).map(|number| tokio::spawn(async move { call(number) })).collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

pub fn spoilt_replies_fail_or_are_right() {
    let server = Server::s3(false);
    let proxy = Proxy::new(server.port);
    let limit = Duration::from_secs(5);
    let options = options(proxy.port).response_timeout(Duration::from_secs(2)).call_timeout(limit);
    let store = ObjectStore::open("s3://pages", &options).unwrap();
    let keys: Vec<ObjectKey> = (0..3).map(key).collect();
    let objects: Vec<_> = (0..3).map(|index| (index != 1).then(|| object(&keys[index], 3000))).collect();
    for (key, object) in keys.iter().zip(&objects) {
        object.iter().for_each(|object| store.put(key, object).unwrap());
    }
    let there = [true, false, true];
    let mut failed = 0;
    let faults = [0, 10, 100, 300, 1000, 3000].map(Fault::Cut).into_iter();
    let faults = faults.chain([0, 200, 2000].map(Fault::Stall)).chain([0, 400, 2000].map(Fault::CutOnce));
    for fault in faults.chain([Fault::Delay(Duration::from_millis(50)), Fault::Drip(Duration::from_millis(50))]) {
        let calls: [&dyn Fn() -> std::io::Result<()>; 3] = [
            &|| store.get_many(&keys).map(|found| assert!(found == objects, "{fault:?}")),
            &|| store.exists(&keys).map(|found| assert_eq!(found, there, "{fault:?}")),
            &|| store.put(&keys[0], objects[0].as_ref().unwrap()),
        ];
        for call in calls {
            proxy.set(fault);
            let start = Instant::now();
            if let Err(error) = call() {
                assert_ne!(error.kind(), ErrorKind::NotFound);
                failed += 1;
            }
            assert!(start.elapsed() < limit + SLACK, "{:?} with {fault:?}", start.elapsed());
            proxy.set(Fault::None);
            assert!(store.get_many(&keys).unwrap() == objects, "after {fault:?}");
        }
    }
    assert!(failed >= 10, "{failed} calls failed");
}
