//! Which addresses are of the public internet, and which others were granted.
//!
//! Guests reach the public internet only. All that a host can reach beyond it is refused unless an
//! operator named its range: the host itself, its neighbours, and the addresses at which clouds
//! hand out credentials. An address that carries another one in it is judged by its form: who is
//! allowed to name `::/0` did not mean the tunnels in it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Address ranges that are granted, of one field of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Networks {
    key: String,
    granted: Vec<IpNet>,
}

impl Networks {
    /// Ranges in the notation of CIDR. The error names the field and the range.
    pub fn parse(texts: &[String], key: &str) -> Result<Self, String> {
        let granted = texts.iter().map(|text| {
            range(text).ok_or_else(|| {
                format!(
                    "{key} has `{}`, which is no address range; write it as `10.1.0.0/16`, and a \
                     single address as `10.1.2.3/32`",
                    lovage_core::text::one_line(text, 100)
                )
            })
        });
        Ok(Self { key: key.to_owned(), granted: granted.collect::<Result<_, _>>()? })
    }

    /// The field of the configuration.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns true if one of the ranges has the address.
    pub fn grant(&self, address: IpAddr) -> bool {
        self.granted.iter().any(|network| {
            network.contains(&address)
                && match address {
                    IpAddr::V4(_) => true,
                    IpAddr::V6(address) => network.prefix_len() >= carrier_prefix(address),
                }
        })
    }
}

/// Reads a range. Its address has to be one in the notation that everybody reads alike: some take
/// `010.0.0.0` for `8.0.0.0`.
fn range(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let digits = length.bytes().all(|byte| byte.is_ascii_digit());
    let length = digits.then(|| length.parse().ok())??;
    IpNet::new(address.parse().ok()?, length).ok()
}

/// Why an address is not of the public internet; `None` where it is.
///
/// After the special-purpose registries of IANA
/// (<https://www.iana.org/assignments/iana-ipv4-special-registry>,
/// <https://www.iana.org/assignments/iana-ipv6-special-registry>), and what clouds use for
/// metadata.
pub fn not_public(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => not_public_v4(address),
        IpAddr::V6(address) => not_public_v6(address),
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(segments: [u16; 3], prefix: u8) -> Ipv6Net {
    let [a, b, c] = segments;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

/// The first that has an address says what it is.
const SPECIAL_V4: &[(Ipv4Net, &str)] = &[
    (v4(0, 0, 0, 0, 8), "unspecified, or of this network"),
    (v4(10, 0, 0, 0, 8), "private"),
    (v4(100, 100, 100, 200, 32), "a cloud's metadata service"),
    (v4(100, 64, 0, 0, 10), "of a carrier's NAT"),
    (v4(127, 0, 0, 0, 8), "loopback"),
    (v4(168, 63, 129, 16, 32), "a cloud's metadata service"),
    (v4(169, 254, 169, 254, 32), "a cloud's metadata service"),
    (v4(169, 254, 0, 0, 16), "link-local"),
    (v4(172, 16, 0, 0, 12), "private"),
    (v4(192, 0, 0, 0, 24), "reserved for protocols"),
    (v4(192, 0, 2, 0, 24), "for documentation"),
    (v4(192, 88, 99, 0, 24), "a relay of 6to4"),
    (v4(192, 168, 0, 0, 16), "private"),
    (v4(198, 18, 0, 0, 15), "for benchmarks"),
    (v4(198, 51, 100, 0, 24), "for documentation"),
    (v4(203, 0, 113, 0, 24), "for documentation"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v4(255, 255, 255, 255, 32), "broadcast"),
    (v4(240, 0, 0, 0, 4), "reserved"),
];

fn not_public_v4(address: Ipv4Addr) -> Option<&'static str> {
    SPECIAL_V4.iter().find(|(network, _)| network.contains(&address)).map(|(_, what)| *what)
}

/// All that is public is in here, but not all in here is public.
const GLOBAL_UNICAST: Ipv6Net = v6([0x2000, 0, 0], 3);
/// RFC 6052: stands for the IPv4 address in its last 32 bits, by way of a translator.
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0], 96);

/// The first that has an address says what it is.
const SPECIAL_V6: &[(Ipv6Net, &str)] = &[
    (v6([0, 0, 0], 128), "unspecified"),
    (Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), "loopback"),
    (MAPPED, "an IPv4 address in the form of IPv6"),
    (COMPATIBLE, "an IPv4 address in the form of IPv6"),
    (TRANSLATED, "an IPv4 address in the form of IPv6"),
    (NAT64_LOCAL, "an IPv4 address behind a translator of the local network"),
    (v6([0x100, 0, 0], 8), "reserved"),
    (TEREDO, "an IPv4 address in a Teredo tunnel"),
    (v6([0x2001, 0, 0], 23), "reserved for protocols"),
    (v6([0x2001, 0xdb8, 0], 32), "for documentation"),
    (SIX_TO_FOUR, "an IPv4 address in a 6to4 tunnel"),
    (v6([0x3fff, 0, 0], 20), "for documentation"),
    (
        Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128),
        "a cloud's metadata service",
    ),
    (
        Ipv6Net::new_assert(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128),
        "a cloud's metadata service",
    ),
    (v6([0xfc00, 0, 0], 7), "private (unique local)"),
    (v6([0xfe80, 0, 0], 10), "link-local"),
    (v6([0xfec0, 0, 0], 10), "private (site-local)"),
    (v6([0xff00, 0, 0], 8), "multicast"),
];

const MAPPED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);
const COMPATIBLE: Ipv6Net = v6([0, 0, 0], 96);
const TRANSLATED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0), 96);
const NAT64_LOCAL: Ipv6Net = v6([0x64, 0xff9b, 1], 48);
const TEREDO: Ipv6Net = v6([0x2001, 0, 0], 32);
const SIX_TO_FOUR: Ipv6Net = v6([0x2002, 0, 0], 16);

/// Ranges whose addresses have an IPv4 address in them.
const CARRIERS: &[Ipv6Net] =
    &[MAPPED, COMPATIBLE, TRANSLATED, NAT64, NAT64_LOCAL, TEREDO, SIX_TO_FOUR];

fn not_public_v6(address: Ipv6Addr) -> Option<&'static str> {
    if NAT64.contains(&address) {
        return not_public_v4(last_32_bits(address));
    }
    if let Some((_, what)) = SPECIAL_V6.iter().find(|(network, _)| network.contains(&address)) {
        return Some(what);
    }
    if !GLOBAL_UNICAST.contains(&address) {
        return Some("reserved");
    }
    // RFC 5214, section 6.1: an interface that is reached through the IPv4 address at its end.
    match address.segments() {
        [_, _, _, _, 0 | 0x200, 0x5efe, _, _] => not_public_v4(last_32_bits(address)),
        _ => None,
    }
}

fn last_32_bits(address: Ipv6Addr) -> Ipv4Addr {
    Ipv4Addr::from_bits(address.to_bits() as u32)
}

/// How long the prefix of a range has to be at least in order to mean an address: as long as that
/// of the form which the address has, where it carries one of IPv4.
fn carrier_prefix(address: Ipv6Addr) -> u8 {
    CARRIERS
        .iter()
        .filter(|network| network.contains(&address) && !address.is_loopback())
        .map(Ipv6Net::prefix_len)
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn granted(ranges: &[&str]) -> Networks {
        let ranges: Vec<_> = ranges.iter().map(|&range| range.to_owned()).collect();
        Networks::parse(&ranges, "k").unwrap()
    }

    #[test]
    fn what_is_not_of_the_public_internet_is_told_by_what_it_is() {
        let v4 = [
            ("0.0.0.0", "unspecified"),
            ("10.255.0.1", "private"),
            ("100.64.0.1", "carrier"),
            ("100.100.100.200", "metadata"),
            ("127.0.0.1", "loopback"),
            ("127.255.255.254", "loopback"),
            ("168.63.129.16", "metadata"),
            ("169.254.169.254", "metadata"),
            ("169.254.170.2", "link-local"),
            ("172.16.0.1", "private"),
            ("172.31.255.255", "private"),
            ("192.0.0.192", "protocols"),
            ("192.0.2.1", "documentation"),
            ("192.88.99.1", "6to4"),
            ("192.168.1.1", "private"),
            ("198.19.255.255", "benchmarks"),
            ("198.51.100.1", "documentation"),
            ("203.0.113.9", "documentation"),
            ("224.0.0.1", "multicast"),
            ("240.0.0.1", "reserved"),
            ("255.255.255.255", "broadcast"),
        ];
        let v6 = [
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("::ffff:127.0.0.1", "in the form of IPv6"),
            ("::ffff:169.254.169.254", "in the form of IPv6"),
            ("::ffff:8.8.8.8", "in the form of IPv6"),
            ("::127.0.0.1", "in the form of IPv6"),
            ("::ffff:0:127.0.0.1", "in the form of IPv6"),
            ("64:ff9b::127.0.0.1", "loopback"),
            ("64:ff9b::a9fe:a9fe", "metadata"),
            ("64:ff9b:1::7f00:1", "translator"),
            ("100::1", "reserved"),
            ("2001::1", "Teredo"),
            ("2001:2::1", "protocols"),
            ("2001:db8::1", "documentation"),
            ("2002:7f00:1::", "6to4"),
            ("2002:808:808::1", "6to4"),
            ("3fff::1", "documentation"),
            ("5f00::1", "reserved"),
            ("fd00:ec2::254", "metadata"),
            ("fd20:ce::254", "metadata"),
            ("fd12:3456::1", "unique local"),
            ("fe80::a9fe:a9fe", "link-local"),
            ("fec0::1", "site-local"),
            ("ff02::1", "multicast"),
            ("2a00::5efe:10.0.0.1", "private"),
            ("4000::1", "reserved"),
        ];
        for (address, what) in v4.into_iter().chain(v6) {
            let said = not_public(ip(address)).unwrap_or_else(|| panic!("{address} is public"));
            assert!(said.contains(what), "{address}: {said}");
        }
        for address in
            ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "192.0.1.1", "223.255.255.254"]
        {
            assert_eq!(not_public(ip(address)), None, "{address}");
        }
        for address in ["2606:4700::1111", "2a00:1450:4001::1", "64:ff9b::8.8.8.8"] {
            assert_eq!(not_public(ip(address)), None, "{address}");
        }
    }

    #[test]
    fn a_range_grants_what_is_in_it_but_no_tunnel_that_it_does_not_mean() {
        assert!(granted(&["127.0.0.0/8"]).grant(ip("127.0.0.1")));
        assert!(!granted(&["127.0.0.0/8"]).grant(ip("128.0.0.1")));
        assert!(!granted(&["127.0.0.0/8"]).grant(ip("::ffff:127.0.0.1")));
        assert!(!granted(&[]).grant(ip("127.0.0.1")));
        assert!(granted(&["::1/128"]).grant(ip("::1")));
        assert!(granted(&["fd00::/8"]).grant(ip("fd00::1")));
        let all = granted(&["::/0"]);
        assert!(all.grant(ip("fd00::1")) && all.grant(ip("::1")));
        for tunnel in ["::ffff:10.0.0.1", "::10.0.0.1", "2002:a00:1::", "64:ff9b::a00:1", "2001::1"]
        {
            assert!(!all.grant(ip(tunnel)), "{tunnel}");
        }
        assert!(granted(&["::ffff:10.0.0.0/104"]).grant(ip("::ffff:10.0.0.1")));
        for text in ["010.0.0.0/8", "10.0.0/8", "10.0.0.0/33", "10.0.0.0/+8", "::1", "fd00::/129"] {
            assert!(Networks::parse(&[text.to_owned()], "k").is_err(), "{text}");
        }
        let wrong = Networks::parse(&["10.0.0.0".to_owned()], "tasks.x.grants.http_networks");
        let said = wrong.unwrap_err();
        assert!(said.contains("tasks.x.grants.http_networks") && said.contains("`10.0.0.0`"));
    }

    proptest! {
        #[test]
        fn no_form_of_ipv6_makes_a_private_address_public(bits: u32) {
            let address = Ipv4Addr::from_bits(bits);
            let [a, b] = [(bits >> 16) as u16, bits as u16];
            let always = [
                Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, a, b),
                Ipv6Addr::new(0, 0, 0, 0, 0, 0, a, b),
                Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, a, b),
                Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, a, b),
                Ipv6Addr::new(0x2002, a, b, 0, 0, 0, 0, 1),
                Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, !a, !b),
            ];
            for form in always {
                prop_assert!(not_public_v6(form).is_some(), "{form}");
            }
            let judged = [
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, a, b),
                Ipv6Addr::new(0x2a00, 1, 2, 3, 0, 0x5efe, a, b),
                Ipv6Addr::new(0x2a00, 1, 2, 3, 0x200, 0x5efe, a, b),
            ];
            for form in judged {
                prop_assert_eq!(not_public_v6(form), not_public_v4(address), "{}", form);
            }
        }

        #[test]
        fn what_the_standard_library_calls_private_is_not_public(bits: u32, high: u128) {
            let four = Ipv4Addr::from_bits(bits);
            if four.is_private() || four.is_loopback() || four.is_link_local()
                || four.is_broadcast() || four.is_documentation() || four.is_multicast()
                || four.is_unspecified()
            {
                prop_assert!(not_public_v4(four).is_some(), "{four}");
            }
            let six = Ipv6Addr::from_bits(high);
            if six.is_unique_local() || six.is_unicast_link_local() || six.is_multicast()
                || six.is_loopback() || six.is_unspecified() || six.to_ipv4().is_some()
            {
                prop_assert!(not_public_v6(six).is_some(), "{six}");
            }
        }
    }
}
