//! Where an address lies: the host that one person has for sure, and the network that one operator
//! may have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Returns the address that stands for everything one host can call from: an IPv4 address itself,
/// the /64 of an IPv6 address.
#[must_use]
pub(crate) fn host(ip: IpAddr) -> IpAddr {
    // A socket for both families shows IPv4 as `::ffff:a.b.c.d`, and all of that lies in one /64.
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// Returns the network that one operator may have: a /16 of IPv4, a /32 of IPv6. An address that
/// the internet does not route is its own network: there the operator is ourselves.
#[must_use]
pub(crate) fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        ip if !is_routable(ip) => host(ip),
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            IpAddr::V4(Ipv4Addr::new(a, b, 0, 0))
        }
        IpAddr::V6(ip) => {
            let [a, b, ..] = ip.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0))
        }
    }
}

/// Tells whether the internet routes the address.
#[must_use]
pub(crate) fn is_routable(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            // Beside what the standard library knows: 0/8, 240/4, shared space (100.64/10), tests
            // of devices (198.18/15) and protocol assignments (192.0.0/24).
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_documentation()
                || ip.is_multicast()
                || a == 0
                || a >= 240
                || (a == 100 && b & 0xc0 == 64)
                || (a == 198 && b & 0xfe == 18)
                || (a, b, c) == (192, 0, 0))
        }
        IpAddr::V6(ip) => {
            let first = ip.segments()[0];
            // Of IPv6 only 2000::/3 has been given out for unicast.
            let documentation = first == 0x2001 && ip.segments()[1] == 0x0db8;
            ip != Ipv6Addr::LOCALHOST && first & 0xe000 == 0x2000 && !documentation
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_networks_are_as_large_as_what_one_party_has() {
        for (ip, same_host, same_network, stranger) in [
            ("8.8.1.1", "::ffff:8.8.1.1", "8.8.200.9", "8.9.1.1"),
            (
                "2a00:1:2:3::1",
                "2a00:1:2:3:ffff::9",
                "2a00:1:9::1",
                "2a00:2::1",
            ),
        ] {
            let [ip, same_host, same_network, stranger] =
                [ip, same_host, same_network, stranger].map(|ip| ip.parse::<IpAddr>().unwrap());
            assert_eq!(host(ip), host(same_host));
            assert_ne!(host(ip), host(same_network));
            assert_eq!(network(ip), network(same_network));
            assert_ne!(network(ip), network(stranger));
        }
        let [a, b] = ["127.0.0.1", "127.0.0.2"].map(|ip| ip.parse::<IpAddr>().unwrap());
        assert_ne!(network(a), network(b));
    }

    #[test]
    fn what_the_internet_routes_is_known() {
        for (ip, routable) in [
            ("::ffff:10.0.0.1", false),
            ("fc00::1", false),
            ("8.8.8.8", true),
            ("100.64.1.1", false),
            ("2a00::1", true),
            ("2001:db8::1", false),
            ("::1", false),
        ] {
            assert_eq!(is_routable(ip.parse().unwrap()), routable, "{ip}");
        }
    }
}
