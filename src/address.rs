//! The address of a client: that of the connection or, behind a trusted proxy from the settings,
//! the one that the proxy reports.

use std::{
    convert::Infallible,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::FromRequestParts,
    http::{Extensions, HeaderMap, HeaderValue, request::Parts},
};

use crate::config::Networks;

/// The header in which proxies report where a request came from. Each proxy appends the address
/// that it received the request from.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// The bits of an IPv6 address that identify its network. The owner of the network controls all the
/// others.
const NETWORK: u128 = !0 << 64;

/// The address of a client. An IPv4-mapped IPv6 address is stored as an IPv4 address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ClientAddress(IpAddr);

impl ClientAddress {
    /// Returns the address that was stored in the extensions of the request when it was received.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Self {
        extensions
            .get()
            .copied()
            .unwrap_or(Self(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))
    }

    /// Returns the network that counts as one origin of requests: an IPv4 address as it is; for an
    /// IPv6 address its first 64 bits, with the rest set to zero.
    #[must_use]
    pub fn network(self) -> IpAddr {
        match self.0 {
            IpAddr::V4(_) => self.0,
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & NETWORK).into(),
        }
    }

    /// Parses an address as proxies write it: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`,
    /// `[2001:db8::1]`, `[2001:db8::1]:80`.
    fn parse(text: &str) -> Option<Self> {
        let bare = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'))
            .unwrap_or(text);
        let address = bare
            .parse()
            .or_else(|_| text.parse().map(|address: SocketAddr| address.ip()));
        address.ok().map(Self::from)
    }
}

impl From<IpAddr> for ClientAddress {
    fn from(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ClientAddress {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.extensions))
    }
}

/// The remote end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    address: ClientAddress,
    /// The trusted proxies, if the peer is one of them.
    proxies: Option<Arc<Networks>>,
}

impl Peer {
    /// Creates the peer of a connection from this address, with these trusted proxies.
    #[must_use]
    pub fn new(address: IpAddr, proxies: &Arc<Networks>) -> Self {
        let address = ClientAddress::from(address);
        Self {
            address,
            proxies: proxies.contain(address.0).then(|| Arc::clone(proxies)),
        }
    }

    /// Returns the address if it is the client's own; `None` for a trusted proxy, which serves many
    /// clients.
    #[must_use]
    pub fn direct(&self) -> Option<ClientAddress> {
        self.proxies.is_none().then_some(self.address)
    }

    /// Returns the address of the client that sent a request with these headers.
    ///
    /// The list is read from its end: an address appended by a trusted proxy is correct, and the
    /// address before it is correct if a trusted proxy appended that one too. The first address
    /// that is not a trusted proxy is the client, and the addresses that the client claims before
    /// it are ignored.
    #[must_use]
    pub fn client(&self, headers: &HeaderMap) -> ClientAddress {
        let Some(proxies) = &self.proxies else {
            return self.address;
        };
        let mut client = self.address;
        for text in headers
            .get_all(FORWARDED_FOR)
            .iter()
            .rev()
            .flat_map(from_the_end)
        {
            let Some(address) = text.and_then(ClientAddress::parse) else {
                break;
            };
            client = address;
            if !proxies.contain(address.0) {
                break;
            }
        }
        client
    }
}

/// Returns the elements of a list, last first; a single `None` if the header is not text.
fn from_the_end(list: &HeaderValue) -> impl Iterator<Item = Option<&str>> {
    let list = list.to_str().ok();
    let texts = list
        .into_iter()
        .flat_map(|list| list.rsplit(','))
        .map(|text| Some(text.trim()));
    texts.chain(list.is_none().then_some(None))
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, de::value::StrDeserializer};

    use super::*;

    fn client(peer: &str, lists: &[&[u8]]) -> String {
        let text: StrDeserializer<'_, serde::de::value::Error> =
            StrDeserializer::new("10.0.0.0/8, fd00::/8, 127.0.0.1");
        let proxies = Arc::new(Networks::deserialize(text).unwrap());
        let mut headers = HeaderMap::new();
        for list in lists {
            headers.append(FORWARDED_FOR, HeaderValue::from_bytes(list).unwrap());
        }
        Peer::new(peer.parse().unwrap(), &proxies)
            .client(&headers)
            .to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        assert_eq!(client("192.0.2.1", &[b"198.51.100.7"]), "192.0.2.1");
        assert_eq!(client("11.0.0.1", &[b"198.51.100.7"]), "11.0.0.1");
        for proxy in ["10.1.2.3", "::ffff:10.1.2.3", "fd00::1", "127.0.0.1"] {
            assert_eq!(client(proxy, &[b"198.51.100.7"]), "198.51.100.7", "{proxy}");
        }
    }

    #[test]
    fn what_the_client_claims_stands_before_what_the_proxies_say() {
        for (lists, expected) in [
            (&[&b"1.1.1.1, 198.51.100.7"[..]][..], "198.51.100.7"),
            (&[b"1.1.1.1,198.51.100.7,10.9.9.9"], "198.51.100.7"),
            (
                &[b"1.1.1.1", b"198.51.100.7", b"10.9.9.9, fd00::7"],
                "198.51.100.7",
            ),
            (&[b"198.51.100.7", b"1.1.1.1"], "1.1.1.1"),
            (&[b"10.0.0.2, 10.0.0.3"], "10.0.0.2"),
            (&[], "10.0.0.1"),
        ] {
            assert_eq!(client("10.0.0.1", lists), expected, "{lists:?}");
        }
    }

    #[test]
    fn addresses_are_read_as_proxies_write_them() {
        for (text, expected) in [
            ("198.51.100.7", "198.51.100.7"),
            (" 198.51.100.7:4711 ", "198.51.100.7"),
            ("2001:DB8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("::ffff:198.51.100.7", "198.51.100.7"),
            ("[::ffff:198.51.100.7]:1", "198.51.100.7"),
        ] {
            assert_eq!(client("10.0.0.1", &[text.as_bytes()]), expected, "{text}");
        }
    }

    #[test]
    fn nonsense_ends_what_is_believed() {
        for nonsense in [
            &b"unknown"[..],
            b"_hidden",
            b"",
            b"198.51.100.300",
            b"198.51.100.7:port",
            b"for=198.51.100.7",
            b"\xff",
            b"[::1",
            b"::1]",
        ] {
            assert_eq!(client("10.0.0.1", &[b"1.1.1.1", nonsense]), "10.0.0.1");
            assert_eq!(
                client("10.0.0.1", &[b"1.1.1.1", nonsense, b"10.0.0.2"]),
                "10.0.0.2"
            );
            let inside = [b"1.1.1.1,", nonsense, b",10.0.0.3"].concat();
            assert_ne!(client("10.0.0.1", &[&inside]), "1.1.1.1");
        }
    }

    #[test]
    fn whoever_has_an_ipv6_network_is_one_origin() {
        let network = |text: &str| ClientAddress::from(text.parse::<IpAddr>().unwrap()).network();
        assert_eq!(
            network("2001:db8:1:2:3:4:5:6"),
            network("2001:db8:1:2:ffff::")
        );
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
        assert_ne!(network("198.51.100.7"), network("198.51.100.8"));
        assert_eq!(network("::ffff:198.51.100.7"), network("198.51.100.7"));
    }
}
