//! Connections to other servers: TLS trusts the system's authorities,
//! HTTPS_PROXY and NO_PROXY are honoured.
//!
//! Out of scope: what is asked, and proxied calls with the connections that
//! are kept for them (see [`crate::proxy`]).

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::response::Parts;
use http::{Method, Request, Uri};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_rustls::{
    ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream,
};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tower::Service;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Connects directly, or through the proxy that the environment names. It is
/// cloned for every connection.
#[derive(Clone, Debug)]
pub(crate) struct Connector(Arc<Ways>);

#[derive(Debug)]
struct Ways {
    direct: HttpsConnector<HttpConnector>,
    http: HttpConnector,
    tls: ClientConfig,
    proxies: Matcher,
}

/// Asks other servers; an idle connection is kept a while.
pub(crate) type Client = legacy::Client<Connector, Full<Bytes>>;

/// Why a server gave no whole answer.
#[derive(Debug)]
pub(crate) enum Unheard {
    /// It is longer than what is read.
    TooLong,
    /// It can't be reached, or broke off.
    Away(BoxError),
}

/// A client of servers that are asked now and then.
///
/// # Errors
/// The system's certificate authorities can't be read.
pub(crate) fn client(connect_within: Duration) -> io::Result<Client> {
    let client = legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(1)
        .build(Connector::new(connect_within)?);
    Ok(client)
}

/// Posts a body of a kind; the answer's head, and its body of up to `longest`
/// bytes. More is not read, and its connection is not kept.
///
/// # Errors
/// No whole answer.
pub(crate) async fn post(
    client: &Client,
    uri: Uri,
    (kind, body): (&'static str, String),
    longest: usize,
) -> Result<(Parts, Bytes), Unheard> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(uri)
        .header(CONTENT_TYPE, kind)
        .header(
            USER_AGENT,
            concat!("tallystick/", env!("CARGO_PKG_VERSION")),
        )
        .body(Full::from(body))
        .map_err(|error| Unheard::Away(error.into()))?;
    let answer = client.request(request).await;
    let answer = answer.map_err(|error| Unheard::Away(error.into()))?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, longest).collect().await;
    let body = body.map_err(|error| match error.is::<LengthLimitError>() {
        true => Unheard::TooLong,
        false => Unheard::Away(error),
    })?;
    Ok((head, body.to_bytes()))
}

/// An error and its causes: the outermost alone seldom says anything.
pub(crate) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

impl Connector {
    /// One on the system's certificate authorities.
    pub(crate) fn new(connect_within: Duration) -> io::Result<Self> {
        let http = tune(HttpConnector::new(), connect_within);
        let tls = tls()?;
        Ok(Self(Arc::new(Ways {
            direct: https(tls.clone(), http.clone()),
            http,
            tls,
            proxies: Matcher::from_env(),
        })))
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // As HttpConnector's always is.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let https_only = target.scheme_str() == Some("https");
        let ways = &self.0;
        let Some(proxy) = ways.proxies.intercept(&target).filter(|_| https_only) else {
            return Box::pin(ways.direct.clone().call(target));
        };
        let mut tunnel = Tunnel::new(proxy.uri().clone(), ways.http.clone());
        if let Some(auth) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(auth.clone());
        }
        Box::pin(https(ways.tls.clone(), tunnel).call(target))
    }
}

/// Sets a connector's socket options.
pub(crate) fn tune<R>(mut http: HttpConnector<R>, connect_within: Duration) -> HttpConnector<R> {
    http.set_nodelay(true);
    http.enforce_http(false);
    http.set_connect_timeout(Some(connect_within));
    http.set_keepalive(Some(Duration::from_secs(60)));
    http
}

/// TLS that trusts the system's certificate authorities.
pub(crate) fn tls() -> io::Result<ClientConfig> {
    Ok(ClientConfig::builder()
        .with_native_roots()?
        .with_no_client_auth())
}

/// TLS over a connector. HTTP/1.1 only: over HTTP/2 all calls would share one
/// connection, and wait for one another at the provider's limit of streams.
pub(crate) fn https<C>(tls: ClientConfig, connector: C) -> HttpsConnector<C> {
    let builder = HttpsConnectorBuilder::new().with_tls_config(tls);
    builder
        .https_or_http()
        .enable_http1()
        .wrap_connector(connector)
}
