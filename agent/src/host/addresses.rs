//! Where the host can be reached, and the hardware addresses of its cards. Called by the probe.
//!
//! Invariant: the first address belongs to the interface of the default route where there is one; loopback and
//! interfaces of container networks are never reported beside a real one.

use std::{
    fs,
    net::{IpAddr, Ipv6Addr},
    path::Path,
};

use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};

use super::read;

/// One address of one interface that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    interface: String,
    address: IpAddr,
}

pub(super) fn of_host(root: &Path) -> Vec<String> {
    let found = match getifaddrs() {
        Ok(all) => all
            .filter(|i| i.flags.contains(InterfaceFlags::IFF_UP))
            .filter_map(|i| {
                let address = i.address?;
                let v4 = address.as_sockaddr_in().map(|a| IpAddr::from(a.ip()));
                let v6 = address.as_sockaddr_in6().map(|a| IpAddr::from(a.ip()));
                Some(Found {
                    interface: i.interface_name,
                    address: v4.or(v6)?,
                })
            })
            .collect(),
        Err(error) => {
            tracing::warn!(%error, "cannot read this host's addresses; give them in the configuration");
            Vec::new()
        }
    };
    let route = read(root, "proc/net/route").unwrap_or_default();
    choose(found, default_interface(&route).as_deref())
}

/// Real interfaces, the default route's first, IPv4 before IPv6; where there are none, bridges; then loopback.
fn choose(found: Vec<Found>, default: Option<&str>) -> Vec<String> {
    let mut ranked: Vec<(u8, Found)> = found
        .into_iter()
        .filter(|f| !is_link_local(f.address))
        .map(|f| {
            let rank = if f.address.is_loopback() {
                3
            } else if default == Some(f.interface.as_str()) {
                0
            } else if is_of_containers(&f.interface) {
                2
            } else {
                1
            };
            (rank, f)
        })
        .collect();
    // Stable: the kernel's order decides between equals.
    ranked
        .sort_by(|(a, x), (b, y)| (a, x.address.is_ipv6(), &x.interface).cmp(&(b, y.address.is_ipv6(), &y.interface)));
    let best = ranked.first().map_or(0, |(rank, _)| (*rank).max(1));
    ranked
        .into_iter()
        .filter(|(rank, _)| *rank <= best)
        .map(|(_, f)| f.address.to_string())
        .collect()
}

/// Networks that exist on this host only.
fn is_of_containers(interface: &str) -> bool {
    let docker_bridge = interface
        .strip_prefix("br-")
        .is_some_and(|id| id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit()));
    docker_bridge
        || [
            "docker", "veth", "virbr", "cni", "flannel", "podman", "lxcbr", "lxdbr", "cali",
        ]
        .iter()
        .any(|p| interface.starts_with(p))
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => Ipv6Addr::is_unicast_link_local(&a),
    }
}

/// Interface of the default route with the lowest metric, from `/proc/net/route`.
fn default_interface(route: &str) -> Option<String> {
    route
        .lines()
        .skip(1)
        .filter_map(|l| {
            let fields: Vec<&str> = l.split_whitespace().collect();
            match fields.as_slice() {
                [interface, "00000000", _, _, _, _, metric, "00000000", ..] => {
                    Some((metric.parse::<u32>().ok()?, (*interface).to_owned()))
                }
                _ => None,
            }
        })
        .min()
        .map(|(_, interface)| interface)
}

/// Hardware addresses of real cards (those with a device behind them), sorted.
pub(super) fn hardware(root: &Path) -> Vec<String> {
    let mut cards: Vec<String> = fs::read_dir(root.join("sys/class/net"))
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("device").exists())
        .filter_map(|entry| fs::read_to_string(entry.path().join("address")).ok())
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty() && text != "00:00:00:00:00:00")
        .collect();
    cards.sort_unstable();
    cards
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(all: &[(&str, &str)]) -> Vec<Found> {
        all.iter()
            .map(|(interface, address)| Found {
                interface: (*interface).into(),
                address: address.parse().unwrap(),
            })
            .collect()
    }

    #[test]
    fn the_default_route_s_address_is_first_and_containers_are_left_out() {
        let all = found(&[
            ("lo", "127.0.0.1"),
            ("docker0", "172.17.0.1"),
            ("eth0", "fe80::1"),
            ("eth0", "10.0.0.5"),
            ("eth1", "2001:db8::7"),
            ("eth1", "192.168.1.7"),
            ("br-0123456789ab", "172.18.0.1"),
        ]);
        assert_eq!(
            choose(all.clone(), Some("eth1")),
            ["192.168.1.7", "2001:db8::7", "10.0.0.5"]
        );
        assert_eq!(choose(all, None), ["10.0.0.5", "192.168.1.7", "2001:db8::7"]);
    }

    #[test]
    fn a_bridge_may_be_the_way_out() {
        let all = found(&[("lo", "127.0.0.1"), ("br0", "10.0.0.5"), ("docker0", "172.17.0.1")]);
        assert_eq!(choose(all, Some("br0")), ["10.0.0.5"]);
    }

    #[test]
    fn a_host_without_a_card_has_what_it_has() {
        let all = found(&[("lo", "127.0.0.1"), ("docker0", "172.17.0.1")]);
        assert_eq!(choose(all, None), ["172.17.0.1"]);
        assert_eq!(choose(found(&[("lo", "127.0.0.1")]), None), ["127.0.0.1"]);
        assert!(choose(Vec::new(), None).is_empty());
    }

    #[test]
    fn default_route_with_the_lowest_metric() {
        let route = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                     wlan0\t00000000\t0102A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
                     eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                     eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(default_interface(route).as_deref(), Some("eth0"));
        assert_eq!(default_interface(""), None);
    }
}
