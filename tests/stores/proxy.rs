//! A proxy in front of a server, which spoils what the server answers.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// When a side counts as having said all.
const QUIET: Duration = Duration::from_millis(150);

/// What the proxy does to the bytes of the server, all connections together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    None,
    /// Passes so many bytes, then cuts the connection and every other one.
    Cut(usize),
    /// Passes so many bytes, then cuts this connection; others pass.
    CutOnce(usize),
    /// Passes so many bytes, and no more while this lasts.
    Stall(usize),
    /// Passes everything later.
    Delay(Duration),
    /// Passes a byte at a time.
    Drip(Duration),
    /// Passes what a side said once it is silent, and counts how often the client is.
    Rounds,
}

#[derive(Clone)]
pub struct Proxy {
    pub port: u16,
    server: u16,
    fault: Arc<Mutex<Fault>>,
    rounds: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

impl Proxy {
    pub fn new(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (fault, rounds) = (Arc::new(Mutex::new(Fault::None)), Arc::default());
        let proxy = Proxy { port, server, fault, rounds, connections: Arc::default(), open: Arc::default() };
        let own = proxy.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let own = own.clone();
                own.connections.fetch_add(1, Ordering::SeqCst);
                own.open.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || {
                    own.serve(client);
                    own.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        proxy
    }

    pub fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
        self.rounds.store(0, Ordering::SeqCst);
    }

    pub fn rounds(&self) -> usize {
        self.rounds.load(Ordering::SeqCst)
    }

    /// Connections that there have been.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    fn fault(&self) -> Fault {
        *self.fault.lock().unwrap()
    }

    fn serve(&self, mut client: TcpStream) {
        let Ok(mut server) = TcpStream::connect(("127.0.0.1", self.server)) else { return };
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
        }
        if self.fault() == Fault::Rounds {
            self.count(&mut client, &mut server);
            return;
        }
        let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        });
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = server.read(&mut bytes) {
            if !self.pass(&mut client, &bytes[..count]) {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
    }

    /// Passes bytes of the server, and tells whether the connection goes on.
    fn pass(&self, client: &mut TcpStream, bytes: &[u8]) -> bool {
        let (count, fault) = {
            let mut fault = self.fault.lock().unwrap();
            let before = *fault;
            let count = match &mut *fault {
                Fault::Cut(left) | Fault::CutOnce(left) | Fault::Stall(left) => {
                    let count = bytes.len().min(*left);
                    *left -= count;
                    count
                }
                _ => bytes.len(),
            };
            if count < bytes.len() && matches!(before, Fault::CutOnce(_)) {
                *fault = Fault::None;
            }
            (count, before)
        };
        match fault {
            Fault::Delay(time) => thread::sleep(time),
            Fault::Drip(time) => {
                return bytes.iter().all(|byte| {
                    thread::sleep(time);
                    client.write_all(&[*byte]).is_ok()
                });
            }
            _ => {}
        }
        if client.write_all(&bytes[..count]).is_err() {
            return false;
        }
        if count < bytes.len() && matches!(fault, Fault::Stall(_)) {
            while matches!(self.fault(), Fault::Stall(_)) {
                thread::sleep(Duration::from_millis(5));
            }
        }
        count == bytes.len()
    }

    fn count(&self, client: &mut TcpStream, server: &mut TcpStream) {
        loop {
            let Some(said) = all(client) else { return };
            self.rounds.fetch_add(1, Ordering::SeqCst);
            if server.write_all(&said).is_err() {
                return;
            }
            let Some(said) = all(server) else { return };
            if client.write_all(&said).is_err() {
                return;
            }
        }
    }
}

/// What a side says until it is silent, or none once it is gone.
fn all(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let (mut said, mut bytes) = (Vec::new(), vec![0; 1 << 16]);
    stream.set_read_timeout(None).unwrap();
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return None,
            Ok(count) => said.extend_from_slice(&bytes[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Some(said),
            Err(_) => return None,
        }
        stream.set_read_timeout(Some(QUIET)).unwrap();
    }
}
