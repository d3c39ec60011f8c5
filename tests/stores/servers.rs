//! Servers on this machine, which end with the test that started them.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// How long a server may take to start.
const START: Duration = Duration::from_secs(60);

/// A program that `scripts/with-servers` made. Where it is missing, the test that needs it is ignored.
pub fn program(name: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/servers").join(name);
    if path.exists() { Ok(path) } else { Err(format!("there is no {}: run scripts/with-servers", path.display())) }
}

/// A port that was free just now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server. It ends when this is dropped, and when this process ends.
pub struct Server {
    process: Child,
    pub port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        self.process.wait().unwrap();
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
            assert!(start.elapsed() < START, "the server of port {} does not end", self.port);
            sleep(Duration::from_millis(10));
        }
    }
}

impl Server {
    /// Starts a program on a port, and waits until it is ready.
    fn start(
        name: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
        port: u16,
        ready: fn(u16) -> bool,
    ) -> Option<Self> {
        let process = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stores/until-input-ends"))
            .arg(program(name).unwrap())
            .args(arguments)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Server { process, port };
        let start = Instant::now();
        while !ready(port) {
            if start.elapsed() > START {
                return None;
            }
            sleep(Duration::from_millis(20));
        }
        Some(server)
    }

    /// Starts a Redis server, with these arguments beside the usual ones.
    pub fn redis(arguments: &[&str]) -> Self {
        // Somebody may have taken the port meanwhile.
        (0..3).find_map(|_| Self::redis_at(free_port(), arguments)).expect("a Redis server starts")
    }

    pub fn redis_at(port: u16, arguments: &[&str]) -> Option<Self> {
        let text = port.to_string();
        let usual = ["--port", &text, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no"];
        let ready = |port| TcpStream::connect(("127.0.0.1", port)).is_ok() && !redis(port, "PING").is_empty();
        Self::start("redis-server", &[&usual, arguments].concat(), &[], port, ready)
    }

    /// Starts a Redis server that speaks TLS, with a certificate for `localhost` by an authority of its own, both in a
    /// folder. The authority is `ca.pem`.
    pub fn redis_tls(folder: &Path) -> Self {
        std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost\n").unwrap();
        for command in [
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem",
            "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout own.key -out own.csr",
            "x509 -req -in own.csr -days 2 -CA ca.pem -CAkey ca.key -CAcreateserial -extfile names -out own.pem",
        ] {
            let mut openssl = Command::new(program("openssl").unwrap());
            let output = openssl.args(command.split(' ')).current_dir(folder).output().unwrap();
            assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        }
        let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        let (certificate, key, authority) = (path("own.pem"), path("own.key"), path("ca.pem"));
        let start = |port: u16| {
            let text = port.to_string();
            let usual =
                ["--port", "0", "--tls-port", &text, "--bind", "127.0.0.1", "--save", "", "--tls-auth-clients", "no"];
            let own = ["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-ca-cert-file", &authority];
            let ready = |port| TcpStream::connect(("127.0.0.1", port)).is_ok();
            Self::start("redis-server", &[&usual[..], &own[..]].concat(), &[], port, ready)
        };
        (0..3).find_map(|_| start(free_port())).expect("a Redis server starts")
    }

    /// Starts a server of S3 that has the bucket `pages`. If it is `strict`, it checks credentials, and knows none.
    pub fn s3(strict: bool) -> Self {
        (0..3).find_map(|_| Self::s3_at(free_port(), strict)).expect("a server of S3 starts")
    }

    pub fn s3_at(port: u16, strict: bool) -> Option<Self> {
        let text = port.to_string();
        // The bucket is made before credentials are checked.
        let variables: &[_] = if strict { &[("INITIAL_NO_AUTH_ACTION_COUNT", "1")] } else { &[] };
        Self::start("s3-server", &["-H", "127.0.0.1", "-p", &text], variables, port, |port| {
            http(port, "PUT /pages HTTP/1.1\r\nContent-Length: 0\r\n").starts_with("HTTP/1.1 200")
        })
    }
}

/// The first line of what a Redis server answers to a command.
pub fn redis(port: u16, command: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(START)).unwrap();
    stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
    let mut line = String::new();
    let _ = BufReader::new(stream).read_line(&mut line);
    line.trim_end().to_owned()
}

/// What a server answers to a request of HTTP, or nothing if it is not there.
fn http(port: u16, request: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return String::new() };
    let host = format!("Host: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    let _ = stream.write_all((request.to_owned() + &host).as_bytes()).and_then(|()| stream.read_to_end(&mut answer));
    String::from_utf8_lossy(&answer).into_owned()
}
