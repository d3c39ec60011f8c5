//! [`RedisStore`], with a server, and with a proxy in front of it that spoils what it answers.

use std::{
    io::ErrorKind,
    net::TcpListener,
    sync::Arc,
    thread::{scope, sleep},
    time::{Duration, Instant},
};

use wgpu_kv_cache::{
    Error, StoreError,
    store::{Object, ObjectKey, Options, RedisStore, Store},
};

use crate::{
    conformance::{conforms, key, object},
    proxy::{Fault, Proxy},
    servers::{Server, free_port, redis},
};

/// What a call may take beyond its timeout on a machine that does other things too.
const SLACK: Duration = Duration::from_secs(4);

pub fn tests() -> Vec<crate::Test> {
    use crate::redis;
    crate::tests!(&["redis-server"], redis:
        store_conforms,
        prefixes_part_stores,
        objects_expire,
        passwords_are_needed,
        servers_that_are_down_fail_quickly,
        values_of_others_are_no_objects,
        full_servers_refuse,
        restarted_servers_are_found_again,
        calls_are_a_round_trip,
        threads_do_not_wait_for_each_other,
        cut_replies_fail_or_are_right,
        stalled_replies_time_out,
        slow_replies_time_out,
    )
}

fn url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}")
}

fn open(port: u16) -> RedisStore {
    RedisStore::open(&url(port), &Options::new()).unwrap()
}

/// A short time of silence, for servers that fail.
const SILENCE: Duration = Duration::from_millis(300);

fn refused(url: &str, options: &Options) -> StoreError {
    match RedisStore::open(url, options) {
        Err(Error::Store(error)) => error,
        Err(error) => panic!("{error}"),
        Ok(store) => panic!("{store:?} is open"),
    }
}

pub fn store_conforms() {
    let server = Server::redis(&[]);
    conforms(&|| Arc::new(open(server.port)));
    // With a time to live other commands are used.
    let options = Options::new().ttl(Duration::from_secs(3600)).prefix("other:");
    conforms(&|| Arc::new(RedisStore::open(&url(server.port), &options).unwrap()));
    // Another database.
    conforms(&|| Arc::new(RedisStore::open(&format!("{}/3", url(server.port)), &Options::new()).unwrap()));
}

pub fn prefixes_part_stores() {
    let server = Server::redis(&[]);
    let of = |prefix: &str| RedisStore::open(&url(server.port), &Options::new().prefix(prefix)).unwrap();
    let name = key(1).to_string();
    for (store, prefix) in [(open(server.port), "kv-cache:"), (of("a:"), "a:"), (of(""), "")] {
        assert_eq!(store.exists(&[key(1)]).unwrap(), [false], "{prefix:?}");
        store.put(&key(1), &object(&key(1), 10)).unwrap();
        assert_eq!(redis(server.port, &format!("EXISTS {prefix}{name}")), ":1");
        assert_eq!(redis(server.port, &format!("TTL {prefix}{name}")), ":-1", "it does not expire");
    }
    assert_eq!(redis(server.port, "DBSIZE"), ":3");
}

pub fn objects_expire() {
    let server = Server::redis(&[]);
    let ttl = Duration::from_millis(2000);
    let store = RedisStore::open(&url(server.port), &Options::new().ttl(ttl)).unwrap();
    let keys = [key(1), key(2), key(3), key(4)];
    let objects: Vec<_> = keys.iter().map(|key| (*key, object(key, 10))).collect();
    store.put_many(&objects).unwrap();
    let left = |key: &ObjectKey| redis(server.port, &format!("PTTL kv-cache:{key}"))[1..].parse::<u64>().unwrap();
    sleep(Duration::from_millis(1000));
    assert!(keys.iter().all(|key| left(key) <= 1000), "they get older");
    // Each use makes them live on.
    assert_eq!(store.get(&keys[0]).unwrap(), Some(objects[0].1.clone()));
    assert_eq!(store.exists(&keys[1..2]).unwrap(), [true]);
    store.put(&keys[2], &objects[2].1).unwrap();
    assert!(keys[..3].iter().all(|key| left(key) > 1000), "used objects live on");
    sleep(Duration::from_millis(1050));
    assert_eq!(redis(server.port, &format!("EXISTS kv-cache:{}", keys[3])), ":0", "it was not used");
    assert_eq!(store.get(&keys[3]).unwrap(), None);
    sleep(ttl);
    assert_eq!(store.exists(&keys).unwrap(), [false; 4]);
    assert_eq!(store.get_many(&keys).unwrap(), [None, None, None, None]);
}

pub fn passwords_are_needed() {
    let server = Server::redis(&["--requirepass", "open-sesame"]);
    let at = |user: &str| format!("redis://{user}127.0.0.1:{}", server.port);
    let path = format!("redis://127.0.0.1:{}", server.port);
    for (user, code) in [("", "NOAUTH"), (":wrong-word@", "authentication"), ("nobody:wrong-word@", "authentication")] {
        let error = refused(&at(user), &Options::new());
        let StoreError::Denied { path: told, reason } = &error else { panic!("{error}") };
        assert_eq!(&**told, path);
        assert!(reason.contains(code) && !format!("{error}{error:?}").contains("wrong-word"), "{error:?}");
    }
    let store = RedisStore::open(&at(":open-sesame@"), &Options::new()).unwrap();
    store.put(&key(1), &object(&key(1), 10)).unwrap();
    assert!(!format!("{store:?}").contains("sesame"), "{store:?}");
    // The password changes while the store is open.
    let changed = "AUTH open-sesame\r\nCONFIG SET requirepass another-word\r\nCLIENT KILL TYPE normal SKIPME yes";
    assert_eq!(redis(server.port, changed), "+OK");
    let error = store.get(&key(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().starts_with(&path) && !format!("{error}{error:?}").contains("sesame"), "{error:?}");
    // A user who may only read.
    let reader = "AUTH another-word\r\nACL SETUSER reader on >read-word ~* +get +exists";
    assert_eq!(redis(server.port, reader), "+OK");
    sleep(Duration::from_millis(50));
    let store = RedisStore::open(&at("reader:read-word@"), &Options::new()).unwrap();
    assert_eq!(store.exists(&[key(1)]).unwrap(), [true]);
    assert_eq!(store.put(&key(2), b"").unwrap_err().kind(), ErrorKind::PermissionDenied);
}

pub fn servers_that_are_down_fail_quickly() {
    let start = Instant::now();
    let error = refused(&url(free_port()), &Options::new());
    assert!(matches!(&error, StoreError::Open { reason, .. } if reason.contains("refused")), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    // One that listens, takes the connection, and never answers. The default is one second.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for user in ["", ":word@"] {
        let start = Instant::now();
        let error =
            refused(&format!("redis://{user}127.0.0.1:{}", listener.local_addr().unwrap().port()), &Options::new());
        assert!(matches!(&error, StoreError::Open { reason, .. } if reason.contains("in time")), "{error:?}");
        assert!(start.elapsed() > Duration::from_millis(900), "{:?}", start.elapsed());
        assert!(start.elapsed() < Duration::from_secs(1) + SLACK, "{:?}", start.elapsed());
    }
    // One that goes while the store is open.
    let server = Server::redis(&[]);
    let store = open(server.port);
    drop(server);
    let start = Instant::now();
    assert_eq!(store.get(&key(1)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(store.exists(&[key(1)]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(store.put(&key(1), b"").unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    // What is no Redis server.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    assert!(matches!(refused(&url(port), &Options::new()), StoreError::Open { .. }));
    assert!(matches!(refused("redis://127.0.0.1:1/x", &Options::new()), StoreError::Open { .. }));
}

pub fn values_of_others_are_no_objects() {
    let server = Server::redis(&[]);
    let store = open(server.port);
    let name = format!("kv-cache:{}", key(1));
    let keys = [key(1), key(2)];
    store.put(&key(2), &object(&key(2), 5)).unwrap();
    for command in [format!("SET {name} foreign"), format!("RPUSH {name} foreign"), format!("HSET {name} a b")] {
        redis(server.port, &command);
        let found = store.get_many(&keys).unwrap();
        assert_eq!(Object::decode(&key(1), found[0].as_ref().unwrap()), None, "{command}");
        assert_eq!(found[1].as_ref().unwrap(), &object(&key(2), 5), "one value of others spoils no other");
        // It is put over, or removed.
        store.put(&key(1), &object(&key(1), 5)).unwrap();
        assert_eq!(store.get(&key(1)).unwrap().unwrap(), object(&key(1), 5));
        store.remove(&key(1)).unwrap();
        redis(server.port, &command);
        store.remove(&key(1)).unwrap();
        assert_eq!(store.exists(&keys).unwrap(), [false, true]);
    }
}

pub fn full_servers_refuse() {
    let server = Server::redis(&["--maxmemory", "4mb", "--maxmemory-policy", "noeviction"]);
    let store = open(server.port);
    store.put(&key(0), &object(&key(0), 10)).unwrap();
    let many: Vec<_> = (1..100).map(|number| (key(number), object(&key(number), 100_000))).collect();
    assert_eq!(store.put_many(&many).unwrap_err().kind(), ErrorKind::StorageFull);
    // Each is there whole or not at all, and the connection is in step.
    let there = store.exists(&many.iter().map(|(key, _)| *key).collect::<Vec<_>>()).unwrap();
    assert!(there[0] && !there[98], "{there:?}");
    for ((key, object), there) in many.iter().zip(there) {
        assert_eq!(store.get(key).unwrap(), there.then(|| object.clone()));
    }
    assert_eq!(store.get(&key(0)).unwrap().unwrap(), object(&key(0), 10));
}

pub fn restarted_servers_are_found_again() {
    let server = Server::redis(&[]);
    let port = server.port;
    let store = open(port);
    store.put(&key(1), &object(&key(1), 10)).unwrap();
    drop(server);
    assert!(store.get(&key(1)).is_err());
    let server = Server::redis_at(port, &[]).unwrap();
    assert_eq!(store.get(&key(1)).unwrap(), None, "this server forgets");
    store.put(&key(1), &object(&key(1), 10)).unwrap();
    // All connections are cut while nobody calls: the next call opens another, and does not fail.
    for _ in 0..3 {
        assert_eq!(redis(port, "CLIENT KILL TYPE normal SKIPME yes"), ":1");
        assert_eq!(store.get(&key(1)).unwrap().unwrap(), object(&key(1), 10));
    }
    drop(server);
}

pub fn calls_are_a_round_trip() {
    let server = Server::redis(&[]);
    let proxy = Proxy::new(server.port);
    proxy.set(Fault::Rounds);
    let patient = Duration::from_secs(60);
    for ttl in [None, Some(patient)] {
        let mut options = Options::new().response_timeout(patient).call_timeout(patient);
        if let Some(ttl) = ttl {
            options = options.ttl(ttl);
        }
        let store = RedisStore::open(&url(proxy.port), &options).unwrap();
        let keys: Vec<ObjectKey> = (0..6000).map(key).collect();
        let objects: Vec<_> = keys.iter().step_by(2).map(|key| (*key, object(key, 200))).collect();
        let mut rounds = Vec::new();
        let mut count = |call: &mut dyn FnMut()| {
            let before = proxy.rounds();
            call();
            rounds.push(proxy.rounds() - before);
        };
        count(&mut || store.put_many(&objects).unwrap());
        count(&mut || {
            let there = store.exists(&keys).unwrap();
            assert!(there.iter().enumerate().all(|(index, &there)| there == (index % 2 == 0)));
        });
        count(&mut || {
            let found = store.get_many(&keys).unwrap();
            for (index, (key, found)) in keys.iter().zip(found).enumerate() {
                assert_eq!(found, (index % 2 == 0).then(|| object(key, 200)));
            }
        });
        // It counts: one after the other is more.
        count(&mut || keys[..4].iter().for_each(|key| drop(store.get(key).unwrap())));
        assert!(rounds[..3].iter().all(|&rounds| (1..=2).contains(&rounds)) && rounds[3] >= 4, "{rounds:?}");
    }
    assert_eq!(proxy.connections(), 2, "each store has a connection");
}

pub fn threads_do_not_wait_for_each_other() {
    let server = Server::redis(&[]);
    let proxy = Proxy::new(server.port);
    let store = RedisStore::open(&url(proxy.port), &Options::new().response_timeout(SLACK)).unwrap();
    store.put(&key(1), &object(&key(1), 10)).unwrap();
    let delay = Duration::from_millis(500);
    proxy.set(Fault::Delay(delay));
    let start = Instant::now();
    scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(store.get(&key(1)).unwrap().unwrap(), object(&key(1), 10)));
        }
    });
    assert!(start.elapsed() >= delay && start.elapsed() < delay * 5, "{:?}", start.elapsed());
    assert!(proxy.connections() <= 8);
    // Four stay, and serve what comes after.
    let before = proxy.connections();
    proxy.set(Fault::None);
    (0..20).for_each(|_| drop(store.get(&key(1)).unwrap()));
    assert_eq!(proxy.connections(), before);
    let start = Instant::now();
    while proxy.open() > 4 {
        assert!(start.elapsed() < SLACK, "{} connections are open", proxy.open());
        sleep(Duration::from_millis(10));
    }
}

/// A store behind a proxy, with objects, and all calls of it: none may return anything but what is right or an error.
struct Spoilt {
    _server: Server,
    proxy: Proxy,
    store: RedisStore,
    keys: Vec<ObjectKey>,
    objects: Vec<Option<Vec<u8>>>,
    most: Duration,
}

impl Spoilt {
    /// A call that is spoilt must end within `most`, of these timeouts.
    fn new(call_timeout: Duration, most: Duration) -> Self {
        let server = Server::redis(&[]);
        let proxy = Proxy::new(server.port);
        let options = Options::new().connect_timeout(SILENCE).response_timeout(SILENCE).call_timeout(call_timeout);
        let store = RedisStore::open(&url(proxy.port), &options).unwrap();
        let keys: Vec<ObjectKey> = (0..6).map(key).collect();
        let objects: Vec<_> = (0..6).map(|index| (index != 2).then(|| object(&keys[index], 150 * index))).collect();
        for (key, object) in keys.iter().zip(&objects) {
            object.iter().for_each(|object| store.put(key, object).unwrap());
        }
        Spoilt { _server: server, proxy, store, keys, objects, most: most + SLACK }
    }

    /// Makes each call while the proxy has a fault. Returns how many failed, and of what kinds.
    fn call(&self, fault: Fault) -> Vec<ErrorKind> {
        let there: Vec<bool> = self.objects.iter().map(Option::is_some).collect();
        let put = (self.keys[1], self.objects[1].clone().unwrap());
        let mut kinds = Vec::new();
        let calls: [(&str, &dyn Fn() -> std::io::Result<()>); 5] = [
            ("get_many", &|| self.store.get_many(&self.keys).map(|found| assert!(found == self.objects, "{fault:?}"))),
            ("get", &|| self.store.get(&self.keys[5]).map(|found| assert!(found == self.objects[5], "{fault:?}"))),
            ("exists", &|| self.store.exists(&self.keys).map(|found| assert_eq!(found, there, "{fault:?}"))),
            ("put_many", &|| self.store.put_many(&[put.clone(), put.clone()])),
            ("remove", &|| self.store.remove(&self.keys[2])),
        ];
        for (name, call) in calls {
            self.proxy.set(fault);
            let start = Instant::now();
            if let Err(error) = call() {
                kinds.push(error.kind());
            }
            assert!(start.elapsed() < self.most, "{name} took {:?} with {fault:?}", start.elapsed());
            // It works again, and what was said before is not taken for an answer.
            self.proxy.set(Fault::None);
            assert!(self.store.get_many(&self.keys).unwrap() == self.objects, "after {name} with {fault:?}");
        }
        kinds
    }
}

pub fn cut_replies_fail_or_are_right() {
    let spoilt = Spoilt::new(Duration::from_secs(60), SILENCE);
    let whole = spoilt.objects.iter().flatten().map(Vec::len).sum::<usize>();
    let mut failed = 0;
    for bytes in (0..40).chain((40..whole + 200).step_by(97)) {
        let kinds = spoilt.call(Fault::Cut(bytes));
        assert!(kinds.iter().all(|kind| *kind == ErrorKind::ConnectionReset), "{bytes}: {kinds:?}");
        failed += kinds.len();
        // One connection is cut: the call is made again on another.
        assert_eq!(spoilt.call(Fault::CutOnce(bytes)), [], "{bytes}");
    }
    assert!(failed > 100, "{failed} calls were cut");
}

pub fn stalled_replies_time_out() {
    // Silent for less than the time of a call.
    let spoilt = Spoilt::new(Duration::from_secs(60), SILENCE);
    for bytes in [0, 1, 5, 100, 1000] {
        let kinds = spoilt.call(Fault::Stall(bytes));
        assert!(!kinds.is_empty() && kinds.iter().all(|kind| *kind == ErrorKind::TimedOut), "{bytes}: {kinds:?}");
    }
}

pub fn slow_replies_time_out() {
    let limit = Duration::from_millis(900);
    let spoilt = Spoilt::new(limit, limit);
    // Never silent for long, and never done: the time of the whole call bounds it.
    let kinds = spoilt.call(Fault::Drip(Duration::from_millis(20)));
    assert!(kinds.len() >= 2 && kinds.iter().all(|kind| *kind == ErrorKind::TimedOut), "{kinds:?}");
    // Late, but in time.
    assert_eq!(spoilt.call(Fault::Delay(Duration::from_millis(40))), []);
    let kinds = spoilt.call(Fault::Delay(Duration::from_secs(2)));
    assert_eq!(kinds, [ErrorKind::TimedOut; 5]);
}
