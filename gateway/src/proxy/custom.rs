//! Hosts that a client names: vetted so that the gateway can't be used to
//! reach the inside of the operator's network.
//!
//! https only, a name with a public suffix, a permitted port. The name is
//! resolved once, every address must be public, and the connection goes to an
//! address that was checked. Redirects are never followed, proxies never used.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name as Host;
use protocol::name::Name;
use protocol::record::Source;
use tower::Service;

use super::connections;
use crate::config::{Base, Upstream};
use crate::connect::{https, tls, tune};
use crate::usage::Dialect;

/// Names that never mean a host on the internet (RFC 6761, RFC 6762, RFC 8375).
const INSIDE: &[&str] = &[
    "arpa",
    "home",
    "internal",
    "invalid",
    "lan",
    "local",
    "localhost",
    "test",
];

/// A client that connects to public addresses only.
pub(super) type Client = connections::Client<HttpsConnector<HttpConnector<Public>>>;

/// Why a host that a client named is not called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No `https://host[:port]/..`.
    Url,
    /// Not a name under a public suffix.
    Host,
    /// Not a permitted port.
    Port,
}

/// The upstream that `url` names, if it may be called.
pub(super) fn upstream(url: &str, ports: &BTreeSet<u16>) -> Result<Upstream, Refusal> {
    let uri: Uri = url.parse().map_err(|_| Refusal::Url)?;
    let plain = uri.authority().is_some_and(|a| !a.as_str().contains('@')) && uri.query().is_none();
    if uri.scheme_str() != Some("https") || !plain {
        return Err(Refusal::Url);
    }
    let host = uri.host().unwrap_or_default().to_ascii_lowercase();
    let provider = registrable(&host).ok_or(Refusal::Host)?;
    if !ports.contains(&uri.port_u16().unwrap_or(443)) {
        return Err(Refusal::Port);
    }
    Ok(Upstream {
        name: Name::new(provider).ok_or(Refusal::Host)?,
        base: Base::of(uri.clone()),
        dialect: Dialect::OpenAi,
        checks_credentials: true,
        asks_for_usage: false,
        source: Source::Custom,
    })
}

/// The registrable domain of a host on the internet.
fn registrable(host: &str) -> Option<&str> {
    let label = |l: &str| {
        !l.is_empty()
            && l.bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    // A last label of digits is an address in one of its many spellings.
    let number = last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x");
    if !host.split('.').all(label) || number || INSIDE.contains(&last) {
        return None;
    }
    let domain = psl::domain(host.as_bytes())?;
    let known = domain.suffix().is_known();
    std::str::from_utf8(domain.as_bytes())
        .ok()
        .filter(|_| known)
}

/// Whether an address is one of the public internet: not this machine, not a
/// network of the operator's, not a form that stands for another address.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

/// The registry of special addresses (RFC 6890) names those that are not.
fn is_public_v4(address: Ipv4Addr) -> bool {
    !matches!(
        address.octets(),
        [0 | 10 | 127, ..]
            | [100, 64..=127, ..]
            | [169, 254, ..]
            | [172, 16..=31, ..]
            | [192, 0, 0 | 2, _]
            | [192, 88, 99, _]
            | [192, 168, ..]
            | [198, 18..=19, ..]
            | [198, 51, 100, _]
            | [203, 0, 113, _]
            | [224..=255, ..]
    )
}

/// Global unicast, but for what tunnels, documents or tests. Forms that hold
/// an IPv4 address (mapped, NAT64, 6to4) are none of it.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    (0x2000..=0x3fff).contains(&first)
        && !(first == 0x2001 && (second < 0x0200 || second == 0x0db8))
        && first != 0x2002
        && !(first == 0x3fff && second < 0x1000)
}

/// A client for hosts that clients name.
pub(super) fn client(connect_within: Duration) -> io::Result<Client> {
    let http = tune(HttpConnector::new_with_resolver(Public), connect_within);
    Ok(Client::new(https(tls()?, http)))
}

/// Resolves a name, and refuses it if any of its addresses is not public.
#[derive(Clone, Copy, Debug)]
pub(super) struct Public;

impl Service<Host> for Public {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, host: Host) -> Self::Future {
        Box::pin(async move {
            let addresses = tokio::net::lookup_host((host.as_str(), 0)).await?;
            Ok(all_public(addresses.collect())?.into_iter())
        })
    }
}

fn all_public(addresses: Vec<SocketAddr>) -> io::Result<Vec<SocketAddr>> {
    if addresses.iter().all(|address| is_public(address.ip())) {
        return Ok(addresses);
    }
    Err(io::Error::other(
        "the host has an address that is not public",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_internet_may_be_called() {
        let ports = BTreeSet::from([443, 8443]);
        for (url, provider) in [
            ("https://api.example.com", "example.com"),
            ("https://API.Example.co.uk/base", "example.co.uk"),
            ("https://a.b.example.com:8443/v1", "example.com"),
            ("https://openai.com", "openai.com"),
        ] {
            let upstream = upstream(url, &ports).expect(url);
            assert_eq!(
                (upstream.name.as_str(), upstream.source),
                (provider, Source::Custom)
            );
        }
        use Refusal::{Host, Port, Url};
        for (url, refusal) in [
            ("http://api.example.com", Url),
            ("ftp://api.example.com", Url),
            ("//api.example.com", Url),
            ("api.example.com", Url),
            ("https://user:pass@api.example.com", Url),
            ("https://api.example.com/?x=y", Url),
            ("https://", Url),
            ("https://api.example.com:444", Port),
            ("https://api.example.com:80", Port),
            ("https://localhost", Host),
            ("https://localhost.", Host),
            ("https://x.localhost", Host),
            ("https://printer.local", Host),
            ("https://metadata.google.internal", Host),
            ("https://intranet", Host),
            ("https://com", Host),
            ("https://co.uk", Host),
            ("https://example.com.", Host),
            ("https://127.0.0.1", Host),
            ("https://2130706433", Host),
            ("https://017700000001", Host),
            ("https://0x7f000001", Host),
            ("https://0x7f.1", Host),
            ("https://127.1", Host),
            ("https://8.8.8.8", Host),
            ("https://[::1]", Host),
            ("https://[::ffff:127.0.0.1]", Host),
            ("https://[64:ff9b::7f00:1]", Host),
            ("https://example.madeupsuffix", Host),
        ] {
            assert_eq!(upstream(url, &ports).err(), Some(refusal), "{url}");
        }
    }

    #[test]
    fn only_public_addresses_are_connected_to() {
        for public in [
            "8.8.8.8",
            "1.1.1.1",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "2001:4860::1",
        ] {
            assert!(is_public(public.parse().expect("an address")), "{public}");
        }
        for inside in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:8.8.8.8",
            "::8.8.8.8",
            "64:ff9b::808:808",
            "64:ff9b:1::1",
            "100::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "ff02::1",
            "2001::1",
            "2001:2::1",
            "2001:db8::1",
            "2002:808:808::1",
            "3fff::1",
            "5f00::1",
        ] {
            assert!(!is_public(inside.parse().expect("an address")), "{inside}");
        }
    }

    #[tokio::test]
    async fn one_address_inside_refuses_the_name() {
        let at = |ip: &str| SocketAddr::new(ip.parse().expect("an address"), 0);
        assert!(all_public(vec![at("8.8.8.8"), at("1.1.1.1")]).is_ok());
        assert!(all_public(vec![at("8.8.8.8"), at("127.0.0.1")]).is_err());
        let resolved = Public.call("localhost".parse().expect("a name")).await;
        assert!(resolved.is_err(), "{resolved:?}");
    }
}
