//! `kv-cache share` between processes on different adapters, through servers.

use std::process::{Command, Output};

use crate::servers::{Server, free_port};

pub fn tests() -> Vec<crate::Test> {
    use crate::share;
    let mut tests = Vec::new();
    if cfg!(feature = "redis") {
        tests.extend(crate::tests!(&["redis-server"], share: through_redis));
    }
    if cfg!(feature = "redis-tls") {
        tests.extend(crate::tests!(&["redis-server", "openssl"], share: through_redis_with_tls));
    }
    if cfg!(feature = "object-store") {
        tests.extend(crate::tests!(&["s3-server"], share: through_s3));
    }
    tests
}

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_kv-cache"));
    program.args(arguments).envs(variables.iter().copied()).output().unwrap()
}

fn json(arguments: &[&str], variables: &[(&str, &str)]) -> serde_json::Value {
    let output = run(arguments, variables);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The first process writes on the first adapter; the next one reads on the last adapter, and one more on the first.
fn shares(url: &str, variables: &[(&str, &str)], secret: &str) {
    let last = json(&["adapters", "--json"], &[]).as_array().unwrap().len() - 1;
    let share = |adapter: usize| {
        let report = json(&["share", "--store", url, "--json", "--adapter", &adapter.to_string()], variables);
        assert!(!report.to_string().contains(secret), "{report}");
        report
    };
    let first = share(0);
    assert_eq!([&first["fetched_tokens"], &first["written_tokens"], &first["put_pages"]], [0, 96, 6]);
    for adapter in [last, 0] {
        let next = share(adapter);
        assert_eq!([&next["fetched_tokens"], &next["written_tokens"], &next["put_pages"]], [80, 16, 0], "{next}");
        assert_eq!(next["verified"], true);
    }
}

pub fn through_redis() {
    let server = Server::redis(&["--requirepass", "open-sesame"]);
    let url = format!("redis://:open-sesame@127.0.0.1:{}/1", server.port);
    shares(&url, &[], "open-sesame");
    // What it prints for people, and what it says of a server that is not there.
    let output = run(&["share", "--store", &url, "--ttl", "1h"], &[]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && told.contains("every byte") && !told.contains("sesame"), "{told}");
    let gone = format!("redis://:open-sesame@127.0.0.1:{}", free_port());
    let output = run(&["share", "--store", &gone], &[]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains("refused") && !told.contains("sesame"), "{told}");
    let output = run(&["share", "--store", &url, "--budget", "1000"], &[]);
    assert!(String::from_utf8(output.stderr).unwrap().contains("maxmemory"));
}

pub fn through_redis_with_tls() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::redis_tls(folder.path());
    let url = format!("rediss://localhost:{}", server.port);
    shares(&url, &[("SSL_CERT_FILE", folder.path().join("ca.pem").to_str().unwrap())], "no password");
    // Nobody vouches for the server.
    let output = run(&["share", "--store", &url], &[]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains(&format!("opening {url} failed")), "{told}");
    // It is not spoken to without encryption either.
    let output = run(&["share", "--store", &url.replace("rediss", "redis")], &[]);
    assert_eq!(output.status.code(), Some(1));
}

pub fn through_s3() {
    let server = Server::s3(false);
    let endpoint = format!("http://127.0.0.1:{}", server.port);
    let variables = [
        ("AWS_ENDPOINT_URL", &*endpoint),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "open-sesame"),
        ("AWS_REGION", "us-east-1"),
    ];
    shares("s3://pages/of/models", &variables, "open-sesame");
    let output = run(&["share", "--store", "s3://no-such-bucket"], &variables);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains("no bucket") && told.contains("s3://no-such-bucket"), "{told}");
}
