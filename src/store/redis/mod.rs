//! [`RedisStore`]: objects in a Redis or Valkey server.

mod connections;

use std::{fmt, io, time::Duration};

use redis::{Cmd, RedisError, ServerErrorKind, Value, cmd};

use self::connections::{Connections, Timeouts, reason};
use super::{Address, ObjectKey, Options, Store};
use crate::{Result, StoreError};

/// What keys begin with if nobody says.
const PREFIX: &str = "kv-cache:";
const TIMEOUTS: Timeouts =
    Timeouts { connect: Duration::from_secs(1), response: Duration::from_secs(1), call: Duration::from_secs(10) };

/// Keeps objects in a Redis or Valkey server, each under a prefix and its key in hexadecimal. All clients of the server
/// share them. They last as long as the server keeps them: it evicts by its `maxmemory-policy`, forgets on a crash what
/// its persistence has not written, and drops what nobody used for the time to live, if there is one.
///
/// A call is one round trip, however many objects it has; the replies to one call are held by the server and by this
/// process at once. A connection that was cut is opened again within the call. Each thread that calls has a connection
/// of its own, and up to four stay open. No call takes longer than [`Options::call_timeout`], nor than
/// [`Options::response_timeout`] while the server is silent.
///
/// Servers since Redis 6.2 are supported.
///
/// ```no_run
/// use std::time::Duration;
/// use wgpu_kv_cache::store::{Options, RedisStore};
///
/// let options = Options::new().ttl(Duration::from_secs(24 * 3600)).prefix("prefixes:");
/// let store = RedisStore::open("redis://:password@cache.internal:6379/0", &options)?;
/// # Ok::<(), wgpu_kv_cache::Error>(())
/// ```
pub struct RedisStore {
    address: Address,
    prefix: String,
    /// Milliseconds.
    ttl: Option<i64>,
    connections: Connections,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("address", &self.address)
            .field("prefix", &self.prefix)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Connects to the server of a URL: [`open`](super::open()) has the forms.
    ///
    /// # Errors
    /// [`StoreError`], also where the server lacks a command that the options need.
    pub fn open(url: &str, options: &Options) -> Result<Self> {
        options.check()?;
        let refused = [
            ("budget", options.budget.is_some(), "the server has maxmemory"),
            ("settings", !options.settings.is_empty(), "they are those of S3, GCS and Azure"),
        ];
        options.refuse("Redis", &refused)?;
        let address = Address::parse(url)?;
        address.check_whole()?;
        let failed = |error: &RedisError| match error.kind() {
            redis::ErrorKind::AuthenticationFailed | redis::ErrorKind::Server(ServerErrorKind::NoPerm) => {
                StoreError::Denied { path: address.to_string().into(), reason: reason(error).into() }
            }
            _ if matches!(error.code(), Some("NOAUTH" | "WRONGPASS")) => {
                StoreError::Denied { path: address.to_string().into(), reason: reason(error).into() }
            }
            _ => StoreError::Open { path: address.to_string().into(), reason: reason(error).into() },
        };
        if matches!(address.scheme(), "rediss" | "valkeys") {
            encrypt(address.scheme())?;
        }
        let timeouts = Timeouts {
            connect: options.connect_timeout.unwrap_or(TIMEOUTS.connect),
            response: options.response_timeout.unwrap_or(TIMEOUTS.response),
            call: options.call_timeout.unwrap_or(TIMEOUTS.call),
        };
        let connections = Connections::new(address.url(), timeouts).map_err(|error| failed(&error))?;
        let ttl = match options.ttl {
            Some(ttl) => Some(i64::try_from(ttl.as_millis()).map_err(|_| StoreError::Ttl { ttl })?),
            None => None,
        };
        let prefix = options.prefix.clone().unwrap_or_else(|| PREFIX.to_owned());
        let store = RedisStore { address: address.clone(), prefix, ttl, connections };
        // Whether the server lets this client in, and has what a time to live needs.
        let probe = store.read(format!("{}open", store.prefix));
        let replies = store.connections.exchange(&[probe]).map_err(|error| failed(&error))?;
        if let Some(Value::ServerError(error)) = replies.into_iter().next()
            && error.code() != "WRONGTYPE"
        {
            return Err(failed(&error.into()).into());
        }
        Ok(store)
    }

    fn key(&self, key: &ObjectKey) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Reads a key, which makes it live on.
    fn read(&self, key: String) -> Cmd {
        match self.ttl {
            Some(ttl) => cmd("GETEX").arg(key).arg("PX").arg(ttl).to_owned(),
            None => cmd("GET").arg(key).to_owned(),
        }
    }

    fn write(&self, key: &ObjectKey, bytes: &[u8]) -> Cmd {
        let mut set = cmd("SET");
        set.arg(self.key(key)).arg(bytes);
        if let Some(ttl) = self.ttl {
            set.arg("PX").arg(ttl);
        }
        set
    }

    fn exchange(&self, commands: &[Cmd]) -> io::Result<Vec<Value>> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        self.connections.exchange(commands).map_err(|error| self.failed(&error))
    }

    /// An error of a call. Its text has the server's code, but none of its words, which may repeat a password.
    fn failed(&self, error: &RedisError) -> io::Error {
        let kind = if error.is_timeout() {
            io::ErrorKind::TimedOut
        } else if error.is_connection_refusal() {
            io::ErrorKind::ConnectionRefused
        } else if error.is_connection_dropped() {
            io::ErrorKind::ConnectionReset
        } else {
            match (error.kind(), error.code()) {
                (redis::ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS" | "NOPERM")) => {
                    io::ErrorKind::PermissionDenied
                }
                (_, Some("OOM")) => io::ErrorKind::StorageFull,
                (_, Some("READONLY")) => io::ErrorKind::ReadOnlyFilesystem,
                (redis::ErrorKind::Parse, _) => io::ErrorKind::InvalidData,
                _ => io::ErrorKind::Other,
            }
        };
        io::Error::new(kind, format!("{}: {}", self.address, reason(error)))
    }

    /// An error of a reply that is not of this kind.
    fn unexpected(&self, reply: Value) -> io::Error {
        match reply {
            Value::ServerError(error) => self.failed(&error.into()),
            _ => io::Error::new(io::ErrorKind::InvalidData, format!("{}: another reply than is known", self.address)),
        }
    }

    fn bytes(&self, reply: Value) -> io::Result<Option<Vec<u8>>> {
        match reply {
            Value::Nil => Ok(None),
            Value::BulkString(bytes) => Ok(Some(bytes)),
            // A list or a hash of somebody else is no object, and neither are no bytes.
            Value::ServerError(error) if error.code() == "WRONGTYPE" => Ok(Some(Vec::new())),
            reply => Err(self.unexpected(reply)),
        }
    }

    fn stored(&self, reply: Value) -> io::Result<()> {
        match reply {
            Value::Okay => Ok(()),
            reply => Err(self.unexpected(reply)),
        }
    }

    fn count(&self, reply: Value) -> io::Result<bool> {
        match reply {
            Value::Int(count) => Ok(count > 0),
            reply => Err(self.unexpected(reply)),
        }
    }
}

/// Makes sure that there is encryption: the process has one provider of it, which may be there.
#[cfg(feature = "redis-tls")]
#[allow(clippy::unnecessary_wraps, reason = "without the feature it is an error")]
fn encrypt(_scheme: &str) -> std::result::Result<(), StoreError> {
    super::provider::install();
    Ok(())
}

#[cfg(not(feature = "redis-tls"))]
fn encrypt(scheme: &str) -> std::result::Result<(), StoreError> {
    Err(StoreError::Feature { scheme: scheme.into(), feature: "redis-tls" })
}

impl Store for RedisStore {
    fn get(&self, key: &ObjectKey) -> io::Result<Option<Vec<u8>>> {
        Ok(self.get_many(&[*key])?.pop().flatten())
    }

    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> io::Result<()> {
        self.exchange(&[self.write(key, bytes)])?.into_iter().try_for_each(|reply| self.stored(reply))
    }

    fn get_many(&self, keys: &[ObjectKey]) -> io::Result<Vec<Option<Vec<u8>>>> {
        let commands: Vec<Cmd> = keys.iter().map(|key| self.read(self.key(key))).collect();
        self.exchange(&commands)?.into_iter().map(|reply| self.bytes(reply)).collect()
    }

    fn put_many(&self, objects: &[(ObjectKey, Vec<u8>)]) -> io::Result<()> {
        let commands: Vec<Cmd> = objects.iter().map(|(key, bytes)| self.write(key, bytes)).collect();
        self.exchange(&commands)?.into_iter().try_for_each(|reply| self.stored(reply))
    }

    fn exists(&self, keys: &[ObjectKey]) -> io::Result<Vec<bool>> {
        // What is found will be read soon, or is not put again: it lives on.
        let command = |key| match self.ttl {
            Some(ttl) => cmd("PEXPIRE").arg(self.key(key)).arg(ttl).to_owned(),
            None => cmd("EXISTS").arg(self.key(key)).to_owned(),
        };
        let commands: Vec<Cmd> = keys.iter().map(command).collect();
        self.exchange(&commands)?.into_iter().map(|reply| self.count(reply)).collect()
    }

    fn remove(&self, key: &ObjectKey) -> io::Result<()> {
        let replies = self.exchange(&[cmd("DEL").arg(self.key(key)).to_owned()])?;
        replies.into_iter().try_for_each(|reply| self.count(reply).map(|_| ()))
    }
}
