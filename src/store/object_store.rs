//! [`ObjectStore`]: objects in S3, GCS or Azure.

use std::{env, fmt, future::Future, io, sync::Arc, sync::mpsc::sync_channel, time::Duration};

use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::{
    BackoffConfig, ClientOptions, Error, ObjectStore as Client, ObjectStoreExt, ObjectStoreScheme, PutPayload,
    RetryConfig,
    aws::AmazonS3Builder,
    azure::MicrosoftAzureBuilder,
    client::{HttpError, HttpErrorKind},
    gcp::GoogleCloudStorageBuilder,
    path::Path,
};
use tokio::runtime::{Builder, Runtime};

use super::{Address, ObjectKey, Options, Store, kind::KNOWN, provider};
use crate::{Result, StoreError};

/// Requests under way at a time, of one call.
const MOST_REQUESTS: usize = 32;
const CONNECT: Duration = Duration::from_secs(1);
const RESPONSE: Duration = Duration::from_secs(3);
const CALL: Duration = Duration::from_secs(10);

/// Keeps objects in a bucket of S3, GCS, Azure or a server that speaks like one of them, each as `ab/abcdef….kv` by its
/// key, after the path of the URL and the prefix. Everybody who may read and write the bucket shares them. They last
/// until rules of the bucket or somebody removes them. An object is there whole or not at all, and once a put has
/// returned, it outlasts crashes of everybody.
///
/// A call for many objects makes up to 32 requests at a time. Requests run in two threads of this store; calls may come
/// from anywhere, also from tasks of an asynchronous runtime, whose thread they block. A request that the server or the
/// network fails is made up to three times, within [`Options::response_timeout`]; no call takes longer than
/// [`Options::call_timeout`].
///
/// Credentials and endpoints are taken from environment variables as the clouds' own tools name them (`AWS_…`,
/// `GOOGLE_…`, `AZURE_…`), before which [`Options::setting`] goes. The client must be allowed to list the bucket: S3
/// does not tell others that an object is absent.
///
/// ```no_run
/// use wgpu_kv_cache::store::{ObjectStore, Options};
///
/// let store = ObjectStore::open("s3://models/prefixes", &Options::new().setting("AWS_REGION", "eu-central-1"))?;
/// # Ok::<(), wgpu_kv_cache::Error>(())
/// ```
pub struct ObjectStore {
    address: Address,
    prefix: Path,
    client: Arc<dyn Client>,
    call_timeout: Duration,
    /// Some until it is dropped.
    runtime: Option<Runtime>,
}

impl fmt::Debug for ObjectStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, prefix) = (&self.address, self.prefix.as_ref());
        f.debug_struct("ObjectStore").field("address", address).field("prefix", &prefix).finish_non_exhaustive()
    }
}

/// A runtime that waits for its threads must not do so in a task of another.
impl Drop for ObjectStore {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What went wrong, and how in words of our own and a code of the server. Its other words may have signatures and
/// tokens.
fn reason(error: &Error) -> (io::ErrorKind, String) {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut transport = None;
    while let Some(cause) = source {
        transport = transport.or_else(|| cause.downcast_ref::<HttpError>().map(HttpError::kind));
        source = cause.source();
    }
    let text = error.to_string();
    let status = after(&text, "status code: ", char::is_ascii_digit);
    let (kind, words) = match (error, transport, status) {
        (Error::NotFound { .. }, ..) | (_, _, Some("404")) => {
            (io::ErrorKind::NotFound, "there is no such object or bucket")
        }
        (Error::PermissionDenied { .. } | Error::Unauthenticated { .. }, ..) | (_, _, Some("401" | "403")) => {
            (io::ErrorKind::PermissionDenied, "the server refuses the credentials")
        }
        (_, Some(HttpErrorKind::Connect), _) => (io::ErrorKind::NotConnected, "no connection to the server"),
        (_, Some(HttpErrorKind::Timeout), _) => (io::ErrorKind::TimedOut, "the server did not answer in time"),
        (_, Some(HttpErrorKind::Request | HttpErrorKind::Interrupted), _) => {
            (io::ErrorKind::ConnectionReset, "the connection was cut")
        }
        (_, Some(HttpErrorKind::Decode), _) => (io::ErrorKind::InvalidData, "the server's answer is not one"),
        _ => (io::ErrorKind::Other, "the request failed"),
    };
    // Such as `NoSuchBucket`, in XML.
    let code = after(&text, "<Code>", char::is_ascii_alphanumeric).or(status);
    (kind, code.map_or_else(|| words.to_owned(), |code| format!("{words} ({code})")))
}

/// The letters of a kind, a few of them, that come after a start.
fn after<'a>(text: &'a str, start: &str, is_part: fn(&char) -> bool) -> Option<&'a str> {
    let (_, rest) = text.split_once(start)?;
    let end = rest.find(|letter| !is_part(&letter)).unwrap_or(rest.len());
    rest.get(..end).filter(|part| (1..=64).contains(&part.len()))
}

/// Environment variables of a cloud, and then the settings of the caller.
fn settings(options: &Options, cloud: &str) -> Vec<(String, String)> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?.to_ascii_lowercase(), value.into_string().ok()?))
    };
    let given = options.settings.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
    env::vars_os().filter_map(text).filter(|(name, _)| name.starts_with(cloud)).chain(given).collect()
}

/// Which of the settings that most clients need are not there, for an error. Other settings may stand for them.
fn unset(settings: &[(String, String)], usual: &[&str]) -> String {
    let is_unset = |name: &&&str| !settings.iter().any(|(set, _)| set.eq_ignore_ascii_case(name));
    let names: Vec<&str> = usual.iter().filter(is_unset).copied().collect();
    if names.is_empty() { String::new() } else { format!("; not set: {}", names.join(", ")) }
}

/// The client of a URL, the path in its bucket, and what an error has to say about its settings.
fn client(address: &Address, options: &Options) -> std::result::Result<(Arc<dyn Client>, Path, String), StoreError> {
    let unknown = || match address.scheme() {
        "https" => StoreError::Url {
            reason:
                "https:// is for hosts of Amazon, Cloudflare and Azure; of another server, s3:// names the bucket, \
                     and the setting AWS_ENDPOINT the server"
                    .into(),
        },
        scheme => StoreError::Scheme { scheme: scheme.into(), known: KNOWN },
    };
    let (scheme, path) = ObjectStoreScheme::parse(address.url()).map_err(|_| unknown())?;
    let response = options.response_timeout.unwrap_or(RESPONSE);
    let mut http = ClientOptions::new()
        .with_connect_timeout(options.connect_timeout.unwrap_or(CONNECT))
        .with_read_timeout(response)
        .with_timeout(options.call_timeout.unwrap_or(CALL));
    let retry = RetryConfig {
        backoff: BackoffConfig { init_backoff: Duration::from_millis(50), max_backoff: response, base: 2.0 },
        max_retries: 2,
        retry_timeout: response,
    };
    let (cloud, usual): (_, &[&str]) = match scheme {
        ObjectStoreScheme::AmazonS3 => ("aws_", &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"]),
        ObjectStoreScheme::GoogleCloudStorage => ("google_", &["GOOGLE_SERVICE_ACCOUNT"]),
        ObjectStoreScheme::MicrosoftAzure => ("azure_", &["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"]),
        _ => return Err(unknown()),
    };
    let settings = settings(options, cloud);
    let unset = unset(&settings, usual);
    // Whoever names such an endpoint means it.
    let is_plain = |(name, value): &(String, String)| name.contains("endpoint") && value.starts_with("http://");
    http = http.with_allow_http(settings.iter().any(is_plain));
    let url = address.url().as_str();
    macro_rules! build {
        ($builder:ty) => {{
            let builder = <$builder>::new().with_url(url).with_retry(retry).with_client_options(http);
            let built = settings
                .into_iter()
                .fold(builder, |builder, (name, value)| match name.parse() {
                    Ok(name) => builder.with_config(name, value),
                    Err(_) => builder,
                })
                .build();
            built.map(|client| Arc::new(client) as Arc<dyn Client>)
        }};
    }
    let built = match scheme {
        ObjectStoreScheme::GoogleCloudStorage => build!(GoogleCloudStorageBuilder),
        ObjectStoreScheme::MicrosoftAzure => build!(MicrosoftAzureBuilder),
        _ => build!(AmazonS3Builder),
    };
    let client = built.map_err(|error| StoreError::Open {
        path: address.to_string().into(),
        reason: match reason(&error) {
            (io::ErrorKind::Other, _) => format!("a setting is missing or wrong{unset}").into(),
            (_, words) => format!("{words}{unset}").into(),
        },
    })?;
    Ok((client, path, unset))
}

impl ObjectStore {
    /// Opens the bucket of a URL: [`open`](super::open()) has the forms.
    ///
    /// # Errors
    /// [`StoreError`], also where there is no such bucket.
    pub fn open(url: &str, options: &Options) -> Result<Self> {
        options.check()?;
        let rules = "the bucket has lifecycle rules";
        let refused = [("budget", options.budget.is_some(), rules), ("ttl", options.ttl.is_some(), rules)];
        options.refuse("an object store", &refused)?;
        let address = Address::parse(url)?;
        provider::install();
        let (client, path, unset) = client(&address, options)?;
        let below = Path::parse(options.prefix.as_deref().unwrap_or_default())
            .map_err(|_| StoreError::Url { reason: "the prefix is not a path".into() })?;
        let prefix = path.parts().chain(below.parts()).collect();
        let open = |error: &dyn fmt::Display| StoreError::Open {
            path: address.to_string().into(),
            reason: error.to_string().into(),
        };
        let runtime =
            Builder::new_multi_thread().worker_threads(2).thread_name("kv-cache objects").enable_all().build();
        let store = ObjectStore {
            prefix,
            client,
            call_timeout: options.call_timeout.unwrap_or(CALL),
            runtime: Some(runtime.map_err(|error| open(&error.kind()))?),
            address: address.clone(),
        };
        let client = Arc::clone(&store.client);
        // An object that is absent does not tell whether its bucket is there. A list does.
        let first = async move { client.list_with_delimiter(Some(&Path::from("kv-cache-none"))).await };
        match store.run(first) {
            Ok(_) => Ok(store),
            Err((io::ErrorKind::NotFound, _)) => Err(StoreError::NoBucket { path: address.to_string().into() }.into()),
            Err((io::ErrorKind::PermissionDenied, reason)) => {
                let reason = (reason + &unset).into();
                Err(StoreError::Denied { path: address.to_string().into(), reason }.into())
            }
            Err((_, reason)) => Err(open(&(reason + &unset)).into()),
        }
    }

    fn path(&self, key: &ObjectKey) -> Path {
        let name = key.to_string();
        self.prefix.clone().join(&name[..2]).join(name + ".kv")
    }

    /// Waits for requests. They run elsewhere, because a thread of an asynchronous runtime may not enter another.
    fn run<T: Send + 'static>(
        &self,
        requests: impl Future<Output = std::result::Result<T, Error>> + Send + 'static,
    ) -> std::result::Result<T, (io::ErrorKind, String)> {
        let ended = || (io::ErrorKind::Other, "the requests ended without an answer".to_owned());
        let runtime = self.runtime.as_ref().ok_or_else(ended)?;
        let (done, receiver) = sync_channel(1);
        let limit = self.call_timeout;
        runtime.spawn(async move {
            // Who called waits until this is sent.
            let _ = done.send(tokio::time::timeout(limit, requests).await);
        });
        match receiver.recv() {
            Ok(Ok(done)) => done.map_err(|error| reason(&error)),
            Ok(Err(_)) => Err((io::ErrorKind::TimedOut, format!("the call took longer than {limit:?}"))),
            Err(_) => Err(ended()),
        }
    }

    fn wait<T: Send + 'static>(
        &self,
        requests: impl Future<Output = std::result::Result<T, Error>> + Send + 'static,
    ) -> io::Result<T> {
        self.run(requests).map_err(|(kind, reason)| io::Error::new(kind, format!("{}: {reason}", self.address)))
    }

    /// Makes a request for each of these, up to a number at a time, and returns the answers in their order.
    fn each<A, T, R>(
        &self,
        of: Vec<A>,
        request: impl Fn(Arc<dyn Client>, A) -> R + Send + 'static,
    ) -> io::Result<Vec<T>>
    where
        A: Send + 'static,
        T: Send + 'static,
        R: Future<Output = std::result::Result<T, Error>> + Send + 'static,
    {
        let client = Arc::clone(&self.client);
        let requests = stream::iter(of).map(move |one| request(Arc::clone(&client), one)).buffered(MOST_REQUESTS);
        self.wait(requests.try_collect())
    }
}

/// None where there is no such object.
fn found<T>(answer: std::result::Result<T, Error>) -> std::result::Result<Option<T>, Error> {
    match answer {
        Err(Error::NotFound { .. }) => Ok(None),
        answer => answer.map(Some),
    }
}

async fn get(client: Arc<dyn Client>, path: Path) -> std::result::Result<Option<Vec<u8>>, Error> {
    match found(client.get(&path).await)? {
        Some(object) => Ok(Some(object.bytes().await?.into())),
        None => Ok(None),
    }
}

impl Store for ObjectStore {
    fn get(&self, key: &ObjectKey) -> io::Result<Option<Vec<u8>>> {
        self.wait(get(Arc::clone(&self.client), self.path(key)))
    }

    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> io::Result<()> {
        let (client, path, bytes) = (Arc::clone(&self.client), self.path(key), PutPayload::from(bytes.to_vec()));
        self.wait(async move { client.put(&path, bytes).await.map(|_| ()) })
    }

    fn get_many(&self, keys: &[ObjectKey]) -> io::Result<Vec<Option<Vec<u8>>>> {
        self.each(keys.iter().map(|key| self.path(key)).collect(), get)
    }

    fn put_many(&self, objects: &[(ObjectKey, Vec<u8>)]) -> io::Result<()> {
        let objects = objects.iter().map(|(key, bytes)| (self.path(key), PutPayload::from(bytes.clone()))).collect();
        let put = |client: Arc<dyn Client>, (path, bytes): (Path, PutPayload)| async move {
            client.put(&path, bytes).await.map(|_| ())
        };
        self.each(objects, put).map(|_| ())
    }

    fn exists(&self, keys: &[ObjectKey]) -> io::Result<Vec<bool>> {
        let head = |client: Arc<dyn Client>, path: Path| async move { Ok(found(client.head(&path).await)?.is_some()) };
        self.each(keys.iter().map(|key| self.path(key)).collect(), head)
    }

    fn remove(&self, key: &ObjectKey) -> io::Result<()> {
        let (client, path) = (Arc::clone(&self.client), self.path(key));
        self.wait(async move { found(client.delete(&path).await).map(|_| ()) })
    }
}
