//! Connections to providers, kept for the next call.
//!
//! A connection is driven by the task whose call it carries, so that an answer
//! wakes one task on its way to the client, and not three. HTTP/1.1 (RFC 9112):
//! one call at a time on each.

use std::collections::HashMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::HOST;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::rt;
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::{Service, ServiceExt as _};

use super::carried::{Carried, CarriedError};

/// How long a connection is kept: less than the idle limits of providers, so
/// that no call meets a closing one.
const KEPT: Duration = Duration::from_secs(30);

/// How many to one host.
const MOST: usize = 1024;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;
type Connection = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;
type Host = (Scheme, Authority);
type Hosts = HashMap<Host, Vec<(Instant, Box<Open>)>>;

/// Sends requests with bodies as they come in, over what `C` connects.
#[derive(Clone, Debug)]
pub(super) struct Client<C> {
    connector: C,
    idle: Arc<Idle>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// No connection came about.
    #[error("no connection")]
    Connect(#[source] BoxError),
    /// It broke off before the answer began.
    #[error("no answer")]
    Call(#[from] hyper::Error),
}

/// Connections that carry no call, by host, in the order they became idle.
#[derive(Debug, Default)]
struct Idle(Mutex<Hosts>);

/// A connection, which makes headway only while it is polled.
struct Open {
    host: Host,
    /// The host takes no more for now of what is to be sent.
    blocked: Arc<AtomicBool>,
    sender: SendRequest<Sent>,
    /// None when it has ended.
    connection: Option<Connection>,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open").finish_non_exhaustive()
    }
}

impl<C> Client<C>
where
    C: Service<Uri, Response = Stream> + Clone,
    C::Error: Into<BoxError>,
{
    /// A client that connects by `connector`.
    pub(super) fn new(connector: C) -> Self {
        let idle = Arc::new(Idle::default());
        tokio::spawn(sweep(Arc::downgrade(&idle)));
        Self { connector, idle }
    }

    /// Sends a request to the host that its URI names, as its `Host` then says.
    ///
    /// # Errors
    /// [`ClientError`]; what was wrong with the request's body is among its sources.
    pub(super) async fn request(
        &self,
        request: Request<Carried>,
    ) -> Result<Response<Answer>, ClientError> {
        let (mut head, body) = request.into_parts();
        let uri = std::mem::take(&mut head.uri);
        let host = host(&uri).ok_or_else(|| ClientError::Connect("no host in the URI".into()))?;
        if let Some(value) = host_header(&host) {
            head.headers.insert(HOST, value);
        }
        let path = uri.path_and_query().cloned();
        head.uri = path
            .unwrap_or_else(|| PathAndQuery::from_static("/"))
            .into();
        let (body, sent) = Sent::new(body);
        let mut request = Request::from_parts(head, body);
        loop {
            let kept = self.idle.take(&host);
            let is_kept = kept.is_some();
            let mut open = match kept {
                Some(open) => open,
                None => self.connect(&uri, &host).await?,
            };
            match open.send(request).await {
                Ok(answer) => return Ok(self.carried(answer, open, &sent)),
                Err(mut error) => match error.take_message() {
                    // It was closed before anything of this went out.
                    Some(unsent) if is_kept => request = unsent,
                    _ => return Err(error.into_error().into()),
                },
            }
        }
    }

    async fn connect(&self, uri: &Uri, host: &Host) -> Result<Box<Open>, ClientError> {
        let stream = self.connector.clone().oneshot(uri.clone()).await;
        let stream = stream.map_err(|error| ClientError::Connect(error.into()))?;
        let blocked = Arc::new(AtomicBool::new(false));
        let watched = Watched {
            stream,
            blocked: Arc::clone(&blocked),
        };
        let (sender, connection) = http1::handshake(watched).await?;
        let connection: Connection = Box::pin(connection.with_upgrades());
        Ok(Box::new(Open {
            host: host.clone(),
            blocked,
            sender,
            connection: Some(connection),
        }))
    }

    fn carried(
        &self,
        answer: Response<Incoming>,
        open: Box<Open>,
        sent: &AtomicBool,
    ) -> Response<Answer> {
        let switches = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        let is_sent = sent.load(Ordering::Relaxed) && !open.blocked.load(Ordering::Relaxed);
        let lent = if switches || !is_sent {
            // The request goes on beside the answer, whoever reads that.
            open.connection.map(tokio::spawn);
            None
        } else {
            let idle = Arc::clone(&self.idle);
            Some(Lent { open, idle })
        };
        let mut answer = answer.map(|body| Answer { body, lent });
        if answer.body().is_end_stream() {
            answer.body_mut().give_back();
        }
        answer
    }
}

impl Open {
    async fn send(
        &mut self,
        request: Request<Sent>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Sent>>> {
        let mut answer = pin!(self.sender.try_send_request(request));
        poll_fn(|cx| {
            poll_connection(&mut self.connection, cx);
            answer.as_mut().poll(cx)
        })
        .await
    }

    /// Whether it waits for a call.
    fn is_idle(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        poll_connection(&mut self.connection, &mut cx);
        self.connection.is_some() && self.sender.is_ready()
    }
}

/// Makes headway. Errors are those of the call that the connection carries.
fn poll_connection(connection: &mut Option<Connection>, cx: &mut Context<'_>) {
    if let Some(open) = connection
        && open.as_mut().poll(cx).is_ready()
    {
        *connection = None;
    }
}

impl Idle {
    /// The connection that became idle last, if it is open still.
    fn take(&self, host: &Host) -> Option<Box<Open>> {
        loop {
            let (since, mut open) = self.hosts().get_mut(host)?.pop()?;
            if since.elapsed() < KEPT && open.is_idle() {
                return Some(open);
            }
        }
    }

    fn put(&self, open: Box<Open>) {
        let mut hosts = self.hosts();
        let there = hosts.entry(open.host.clone()).or_default();
        if there.len() < MOST {
            there.push((Instant::now(), open));
        }
    }

    fn hosts(&self) -> MutexGuard<'_, Hosts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes what nobody called for, as long as the client lives.
async fn sweep(idle: Weak<Idle>) {
    loop {
        tokio::time::sleep(KEPT / 2).await;
        let Some(idle) = idle.upgrade() else { return };
        idle.hosts().retain(|_, open| {
            open.retain(|(since, _)| since.elapsed() < KEPT);
            !open.is_empty()
        });
    }
}

/// An answer's body, and the connection that it comes on.
#[derive(Debug)]
pub(super) struct Answer {
    body: Incoming,
    /// Until the body has ended. Dropped before, it is closed, and the call ends.
    lent: Option<Lent>,
}

#[derive(Debug)]
struct Lent {
    open: Box<Open>,
    idle: Arc<Idle>,
}

impl Answer {
    /// The body has ended: keeps the connection for the next call.
    fn give_back(&mut self) {
        if let Some(mut lent) = self.lent.take()
            && lent.open.is_idle()
        {
            lent.idle.put(lent.open);
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_pending()
            && let Some(lent) = &mut self.lent
        {
            // It reads what is asked for.
            poll_connection(&mut lent.open.connection, cx);
            frame = Pin::new(&mut self.body).poll_frame(cx);
        }
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.give_back();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request's body, which says when all of it was taken.
#[derive(Debug)]
pub(super) struct Sent {
    body: Carried,
    all: Arc<AtomicBool>,
}

impl Sent {
    fn new(body: Carried) -> (Self, Arc<AtomicBool>) {
        let all = Arc::new(AtomicBool::new(body.is_end_stream()));
        let sent = Arc::clone(&all);
        (Self { body, all }, sent)
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = CarriedError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CarriedError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.all.store(true, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that says whether it takes what is written to it.
struct Watched {
    stream: Stream,
    blocked: Arc<AtomicBool>,
}

impl Watched {
    fn watch<T>(
        &mut self,
        write: impl FnOnce(Pin<&mut Stream>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let written = write(Pin::new(&mut self.stream));
        self.blocked.store(written.is_pending(), Ordering::Relaxed);
        written
    }
}

impl rt::Read for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl rt::Write for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.watch(|stream| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.watch(|stream| stream.poll_write_vectored(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watch(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn host(uri: &Uri) -> Option<Host> {
    Some((uri.scheme()?.clone(), uri.authority()?.clone()))
}

/// The host, and the port where it is not the scheme's own (RFC 9110 section 7.2).
fn host_header((scheme, authority): &Host) -> Option<HeaderValue> {
    let own = match scheme.as_str() {
        "https" => 443,
        _ => 80,
    };
    let port = authority.port_u16().filter(|port| *port != own);
    let host = authority.host();
    let text = port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    HeaderValue::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use hyper_rustls::HttpsConnectorBuilder;
    use hyper_util::client::legacy::connect::HttpConnector;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    type Plain = hyper_rustls::HttpsConnector<HttpConnector>;

    fn client() -> Client<Plain> {
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::ring::default_provider(),
        ));
        let tls = tls.with_safe_default_protocol_versions().expect("ring's");
        let tls = tls.with_root_certificates(rustls::RootCertStore::empty());
        let builder = HttpsConnectorBuilder::new().with_tls_config(tls.with_no_client_auth());
        Client::new(builder.https_or_http().enable_http1().build())
    }

    /// Calls with a body; the answer's body, or the error.
    async fn call(client: &Client<Plain>, port: u16, body: &'static [u8]) -> Result<Bytes, String> {
        let request = Request::post(format!("http://localhost:{port}/a?b"));
        let request = request.body(Carried::from(Bytes::from_static(body)));
        let answer = client.request(request.expect("a request")).await;
        let answer = answer.map_err(|error| error.to_string())?;
        let body = answer.into_body().collect().await;
        Ok(body.map_err(|error| error.to_string())?.to_bytes())
    }

    /// Answers the connections that come with these bytes, one after the
    /// other, `calls` times each, then closes them; the port.
    async fn server(answers: &'static [&'static str], calls: usize) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                for _ in 0..calls {
                    let mut request = [0; 4096];
                    let read = stream.read(&mut request).await.expect("a request");
                    let text = String::from_utf8_lossy(&request[..read]).to_lowercase();
                    let host = format!("host: localhost:{port}\r\n");
                    assert!(text.starts_with("post /a?b http/1.1\r\n") && text.contains(&host));
                    let answer = answer.as_bytes();
                    stream.write_all(answer).await.expect("the client reads");
                }
            }
        });
        port
    }

    #[tokio::test]
    async fn a_connection_is_kept_until_it_closes() {
        for (first, second) in [
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1",
                "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n2",
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n\r\n",
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\n2",
            ),
        ] {
            let port = server(Box::leak(Box::new([first, second])), 2).await;
            let client = client();
            // Two calls on the first connection; it is closed while it waits.
            for answer in ["1", "1", "2"] {
                let got = call(&client, port, b"body").await;
                assert_eq!(got.as_deref(), Ok(answer.as_bytes()), "{first}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    #[tokio::test]
    async fn what_went_out_is_never_sent_again() {
        const CUT: &str = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n1";
        let port = server(&[CUT], 1).await;
        assert!(call(&client(), port, b"body").await.is_err());
        let port = server(&["", "HTTP/1.1 200 OK\r\n\r\n"], 1).await;
        assert_eq!(
            call(&client(), port, b"body").await,
            Err("no answer".into())
        );
    }

    #[tokio::test]
    async fn a_request_goes_on_beside_an_answer_that_nobody_reads() {
        const LONG: &[u8] = &[7; 32 << 20];
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n";
            stream.write_all(answer).await.expect("the client reads");
            let (mut read, mut block) = (0, vec![0; 1 << 20]);
            while read < LONG.len() {
                read += stream.read(&mut block).await.expect("the request");
            }
        });
        let request = Request::post(format!("http://127.0.0.1:{port}/"));
        let request = request.body(Carried::from(Bytes::from_static(LONG)));
        let answer = client().request(request.expect("a request")).await;
        served.await.expect("all of the request came");
        drop(answer);
    }
}
