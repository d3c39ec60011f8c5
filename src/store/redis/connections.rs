//! [`Connections`] to a server: none hangs the caller.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use redis::{Client, Cmd, IntoConnectionInfo, RedisError, RedisResult, Value, io::tcp::TcpSettings};
use url::Url;

/// Connections that stay open while nobody calls.
const MOST_IDLE: usize = 4;

#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub connect: Duration,
    pub response: Duration,
    pub call: Duration,
}

/// Commands, packed, and where their replies go.
struct Exchange {
    commands: Arc<Vec<u8>>,
    replies: usize,
    until: Instant,
    done: SyncSender<RedisResult<Vec<Value>>>,
}

/// A thread that owns a connection. It makes one exchange after the other, and ends after one that fails, or when
/// nobody has this any more. A caller waits for a thread, not for a socket, because neither the resolution of a name
/// nor a reply that comes byte by byte is bounded by the timeouts of a socket.
struct Connection {
    exchanges: SyncSender<Exchange>,
}

impl Connection {
    fn start(client: &Client, timeouts: Timeouts) -> io::Result<Self> {
        let (sender, exchanges) = sync_channel(1);
        let client = client.clone();
        let work = move || work(&client, timeouts, &exchanges);
        thread::Builder::new().name("kv-cache redis".to_owned()).spawn(work)?;
        Ok(Connection { exchanges: sender })
    }

    fn exchange(&self, commands: &Arc<Vec<u8>>, replies: usize, until: Instant) -> RedisResult<Vec<Value>> {
        let (done, receiver) = sync_channel(1);
        let exchange = Exchange { commands: Arc::clone(commands), replies, until, done };
        if self.exchanges.send(exchange).is_err() {
            return Err(io::Error::from(io::ErrorKind::ConnectionReset).into());
        }
        match receiver.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(replies) => replies,
            Err(RecvTimeoutError::Timeout) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::from(io::ErrorKind::ConnectionReset).into()),
        }
    }
}

/// What the thread of a connection does.
fn work(client: &Client, timeouts: Timeouts, exchanges: &Receiver<Exchange>) {
    let opened = client.get_connection_with_timeout(timeouts.connect).and_then(|connection| {
        connection.set_read_timeout(Some(timeouts.response))?;
        connection.set_write_timeout(Some(timeouts.response))?;
        Ok(connection)
    });
    let mut opened = opened;
    for Exchange { commands, replies, until, done } in exchanges {
        let connection = match &mut opened {
            Ok(connection) => connection,
            Err(_) => {
                let failed = opened.map(|_| Vec::new());
                // Where nobody waits any more, nobody needs it.
                let _ = done.send(failed);
                return;
            }
        };
        let made = connection.send_packed_command(&commands).and_then(|()| {
            let reply = |_| match Instant::now() < until {
                true => connection.recv_response(),
                false => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            };
            (0..replies).map(reply).collect()
        });
        // Replies that are still to come would pass for those of what is sent next.
        let failed = made.is_err();
        let _ = done.send(made);
        if failed {
            return;
        }
    }
}

/// Connections to one server. The lock is held for as long as it takes to take one or give it back.
pub(super) struct Connections {
    client: Client,
    timeouts: Timeouts,
    idle: Mutex<Vec<Connection>>,
}

impl Connections {
    pub fn new(url: &Url, timeouts: Timeouts) -> RedisResult<Self> {
        let info = url.clone().into_connection_info()?;
        // A round trip for a name that the server shows to its administrators is not worth it.
        let redis = info.redis_settings().clone().set_skip_set_lib_name();
        let tcp = TcpSettings::default().set_nodelay(true);
        let client = Client::open(info.set_redis_settings(redis).set_tcp_settings(tcp))?;
        Ok(Connections { client, timeouts, idle: Mutex::new(Vec::new()) })
    }

    /// Sends commands at once and returns their replies, of which each may be an error of the server.
    pub fn exchange(&self, commands: &[Cmd]) -> RedisResult<Vec<Value>> {
        let start = Instant::now();
        let until = start.checked_add(self.timeouts.call).unwrap_or(start);
        let mut packed = Vec::new();
        for command in commands {
            command.write_packed_command(&mut packed);
        }
        let packed = Arc::new(packed);
        let idle = self.lock().pop();
        if let Some(connection) = idle {
            match connection.exchange(&packed, commands.len(), until) {
                Ok(replies) => {
                    self.keep(connection);
                    return Ok(replies);
                }
                Err(error) => {
                    // The others are as old, and probably end likewise.
                    self.lock().clear();
                    // Every command can be given twice.
                    if !error.is_connection_dropped() {
                        return Err(error);
                    }
                }
            }
        }
        let connection = Connection::start(&self.client, self.timeouts)?;
        let replies = connection.exchange(&packed, commands.len(), until)?;
        self.keep(connection);
        Ok(replies)
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.lock();
        if idle.len() < MOST_IDLE {
            idle.push(connection);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What went wrong, in words that come from nobody else.
pub(super) fn reason(error: &RedisError) -> String {
    if error.is_timeout() {
        "the server did not answer in time".to_owned()
    } else if error.is_connection_refusal() {
        "the connection was refused".to_owned()
    } else if error.is_connection_dropped() {
        "the connection was cut".to_owned()
    } else {
        let code = error.code().filter(|code| code.len() <= 32 && code.bytes().all(|byte| byte.is_ascii_uppercase()));
        code.map_or_else(|| error.category().to_owned(), |code| format!("{} ({code})", error.category()))
    }
}
