//! The network of an instance: a router namespace without a default route, one namespace for each
//! cluster, one link to the host. All addresses are of 198.18.0.0/15 (RFC 2544), and a blackhole
//! route for that range stands on the host, so that no packet leaves the machine whatever breaks.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, bail};

use crate::sys;

/// The range that all addresses are taken from.
const RANGE: &str = "198.18.0.0/15";
/// A number that marks our routes and is worse than any metric a user would choose.
const LAST_METRIC: &str = "4000000000";
/// The chain of the router where faults are.
const CHAIN: &str = "FAULTS";

/// The addresses of one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    instance: u8,
    index: u8,
}

/// Clusters that one instance can have.
pub const MAX_CLUSTERS: u8 = 4;
/// Instances that one machine can have.
pub const MAX_INSTANCES: u8 = 8;

fn slice(instance: u8, third: u8, fourth: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 18 + instance / 4, (instance % 4) * 64 + third, fourth)
}

impl Addresses {
    /// The addresses of the cluster with this index in this instance.
    #[must_use]
    pub fn new(instance: u8, index: u8) -> Self {
        Self { instance, index }
    }

    fn at(&self, third: u8, fourth: u8) -> Ipv4Addr {
        slice(self.instance, self.index * 15 + third, fourth)
    }

    /// The router's address on the link to the cluster.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        self.at(0, 1)
    }

    /// The address of the node, the API server and every NodePort.
    #[must_use]
    pub fn node(&self) -> Ipv4Addr {
        self.at(0, 2)
    }

    /// The network of the link: what the other clusters see of this one.
    #[must_use]
    pub fn node_network(&self) -> String {
        format!("{}/24", self.at(0, 0))
    }

    /// Pods.
    #[must_use]
    pub fn pod_network(&self) -> String {
        format!("{}/24", self.at(2, 0))
    }

    /// Services.
    #[must_use]
    pub fn service_network(&self) -> String {
        format!("{}/24", self.at(8, 0))
    }

    /// The Service `kubernetes`, which is the first one.
    #[must_use]
    pub fn first_service(&self) -> Ipv4Addr {
        self.at(8, 1)
    }
}

/// The network of one instance.
#[derive(Clone, Debug)]
pub struct Network {
    instance: u8,
}

impl Network {
    /// The network of this instance, whether it is there yet or not.
    #[must_use]
    pub fn new(instance: u8) -> Self {
        Self { instance }
    }

    /// Everything of this instance starts with these letters.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("de{}-", self.instance)
    }

    fn router(&self) -> String {
        format!("de{}-router", self.instance)
    }

    fn host_link(&self) -> String {
        format!("de{}-host", self.instance)
    }

    /// The network namespace of a cluster.
    #[must_use]
    pub fn namespace(&self, cluster: &str) -> String {
        format!("de{}-{cluster}", self.instance)
    }

    fn slice_net(&self) -> String {
        format!("{}/18", slice(self.instance, 0, 0))
    }

    /// The address of the host as the clusters see it.
    #[must_use]
    pub fn host_address(&self) -> Ipv4Addr {
        slice(self.instance, 63, 1)
    }

    /// Makes the router and the host's link to it.
    pub fn create(&self) -> Result<()> {
        let (router, link, net) = (self.router(), self.host_link(), self.slice_net());
        let near = format!("{}/24", self.host_address());
        let far_ip = slice(self.instance, 63, 2).to_string();
        let far = format!("{far_ip}/24");
        ip(&["netns", "add", &router])?;
        // After the router is there: the end of another instance leaves the route alone then.
        ip(&["route", "replace", "blackhole", RANGE, "metric", LAST_METRIC])?;
        inside(&router, &["sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
        ip(&["-n", &router, "link", "set", "lo", "up"])?;
        ip(&["link", "add", &link, "type", "veth", "peer", "name", "host", "netns", &router])?;
        ip(&["-n", &router, "addr", "add", &far, "dev", "host"])?;
        ip(&["-n", &router, "link", "set", "host", "up"])?;
        inside(&router, &["iptables", "-w", "-N", CHAIN])?;
        inside(&router, &["iptables", "-w", "-A", "FORWARD", "-j", CHAIN])?;
        // The host neither passes packets of the clusters on nor anything of others to them.
        for way in ["-i", "-o"] {
            let rule = host_rule("-I", way, &link);
            sys::run("iptables", &rule)?;
        }
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{link}/forwarding"), "0")
            .context("cannot switch off forwarding on the host's link")?;
        ip(&["addr", "add", &near, "dev", &link])?;
        ip(&["link", "set", &link, "up"])?;
        ip(&["route", "replace", &net, "via", &far_ip, "dev", &link])?;
        Ok(())
    }

    /// Makes a cluster's namespace and its link to the router.
    pub fn attach(&self, cluster: &str, at: Addresses) -> Result<()> {
        let (router, ns) = (self.router(), self.namespace(cluster));
        let (gateway, node) = (at.gateway().to_string(), at.node().to_string());
        ip(&["netns", "add", &ns])?;
        let link = ["link", "add", cluster, "type", "veth", "peer", "name", "eth0", "netns", &ns];
        ip(&[&["-n", router.as_str()], link.as_slice()].concat())?;
        ip(&["-n", &router, "addr", "add", &format!("{gateway}/24"), "dev", cluster])?;
        ip(&["-n", &router, "link", "set", cluster, "up"])?;
        ip(&["-n", &ns, "link", "set", "lo", "up"])?;
        ip(&["-n", &ns, "addr", "add", &format!("{node}/24"), "dev", "eth0"])?;
        ip(&["-n", &ns, "link", "set", "eth0", "up"])?;
        ip(&["-n", &ns, "route", "add", "default", "via", &gateway])?;
        inside(&ns, &["sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
        Ok(())
    }

    /// Removes a cluster's namespace with its link, as when the machine is off.
    pub fn detach(&self, cluster: &str) -> Result<()> {
        let ns = self.namespace(cluster);
        let _ = ip(&["-n", &self.router(), "link", "del", cluster]);
        delete_namespace(&ns)
    }

    /// Removes all that has the prefix of this instance, whoever made it.
    pub fn destroy(&self) -> Result<()> {
        for ns in sys::names_in("/run/netns".as_ref()) {
            if ns.starts_with(&self.prefix()) {
                delete_namespace(&ns)?;
            }
        }
        let link = self.host_link();
        let _ = ip(&["link", "del", &link]);
        for way in ["-i", "-o"] {
            while sys::run("iptables", &host_rule("-D", way, &link)).is_ok() {}
        }
        let others = sys::names_in("/run/netns".as_ref());
        if !others.iter().any(|name| is_router(name)) {
            let _ = ip(&["route", "del", "blackhole", RANGE, "metric", LAST_METRIC]);
        }
        Ok(())
    }

    /// Whether the router is there.
    #[must_use]
    pub fn exists(&self) -> bool {
        std::path::Path::new("/run/netns").join(self.router()).exists()
    }

    /// Adds a fault: packets from one network to the other (`None`: from or to any) are treated
    /// as `action` says.
    pub fn add_fault(&self, from: Option<&str>, to: Option<&str>, action: &Action) -> Result<()> {
        if self.has_fault(from, to, action) {
            return Ok(());
        }
        let rule = fault_rule(from, to, action);
        // Drops come first: a cut is total even where packets are also lost at random.
        let how: &[&str] = if *action == Action::Drop { &["-I", CHAIN, "1"] } else { &["-A", CHAIN] };
        self.faults(&[how, words(&rule).as_slice()].concat())
    }

    /// Whether this very fault stands.
    #[must_use]
    pub fn has_fault(&self, from: Option<&str>, to: Option<&str>, action: &Action) -> bool {
        let rule = fault_rule(from, to, action);
        self.faults(&[&["-C", CHAIN], words(&rule).as_slice()].concat()).is_ok()
    }

    /// Takes a fault away; one that is not there is no error.
    pub fn remove_fault(&self, from: Option<&str>, to: Option<&str>, action: &Action) -> Result<()> {
        let rule = fault_rule(from, to, action);
        while self.faults(&[&["-D", CHAIN], words(&rule).as_slice()].concat()).is_ok() {}
        Ok(())
    }

    /// Takes all faults away.
    pub fn clear_faults(&self) -> Result<()> {
        self.faults(&["-F", CHAIN])
    }

    /// The faults that stand, as iptables shows them.
    pub fn list_faults(&self) -> Result<String> {
        inside(&self.router(), &["iptables", "-w", "-S", CHAIN])
    }

    fn faults(&self, rest: &[&str]) -> Result<()> {
        inside(&self.router(), &[&["iptables", "-w"], rest].concat()).map(|_| ())
    }
}

/// What happens to packets on a faulty way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// All are lost, without any answer.
    Drop,
    /// This many of a hundred are lost.
    Lose(u8),
}

fn fault_rule(from: Option<&str>, to: Option<&str>, action: &Action) -> Vec<String> {
    let mut rule = Vec::new();
    for (flag, net) in [("-s", from), ("-d", to)] {
        if let Some(net) = net {
            rule.extend([flag.to_owned(), net.to_owned()]);
        }
    }
    if let Action::Lose(percent) = action {
        let share = format!("{:.2}", f64::from(*percent) / 100.0);
        let loss = ["-m", "statistic", "--mode", "random", "--probability", &share];
        rule.extend(loss.map(str::to_owned));
    }
    rule.extend(["-j".to_owned(), "DROP".to_owned()]);
    rule
}

fn words(rule: &[String]) -> Vec<&str> {
    rule.iter().map(String::as_str).collect()
}

fn host_rule<'a>(what: &'a str, way: &'a str, link: &'a str) -> [&'a str; 7] {
    ["-w", what, "FORWARD", way, link, "-j", "DROP"]
}

fn is_router(name: &str) -> bool {
    (0..MAX_INSTANCES).any(|n| name == format!("de{n}-router"))
}

fn delete_namespace(ns: &str) -> Result<()> {
    if std::path::Path::new("/run/netns").join(ns).exists() {
        ip(&["netns", "del", ns])?;
    }
    Ok(())
}

fn ip(args: &[&str]) -> Result<String> {
    sys::run("ip", args)
}

/// Runs a program inside a network namespace.
pub(crate) fn inside(ns: &str, argv: &[&str]) -> Result<String> {
    let net = format!("--net=/run/netns/{ns}");
    sys::run("nsenter", &[&[net.as_str(), "--"], argv].concat())
}

/// Refuses a name that would not fit in names of links and groups.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let good = name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
    let first = name.bytes().next().is_some_and(|c| c.is_ascii_lowercase());
    if !good || !first || name.len() > 10 || ["router", "host"].contains(&name) {
        bail!("`{name}` cannot name a cluster: at most 10 of a-z, 0-9 and `-`, not `router` or `host`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_networks_share_an_address() {
        let mut seen = BTreeSet::new();
        for instance in 0..MAX_INSTANCES {
            assert!(seen.insert(format!("{}/24", slice(instance, 63, 0))));
            for index in 0..MAX_CLUSTERS {
                let at = Addresses::new(instance, index);
                for net in [at.node_network(), at.pod_network(), at.service_network()] {
                    assert!(net.starts_with("198.18.") || net.starts_with("198.19."), "{net}");
                    assert!(seen.insert(net.clone()), "{net} twice");
                }
            }
        }
    }

    #[test]
    fn faults_become_rules() {
        let all = fault_rule(Some("198.18.0.0/24"), None, &Action::Drop).join(" ");
        assert_eq!(all, "-s 198.18.0.0/24 -j DROP");
        let some = fault_rule(None, Some("198.18.0.0/24"), &Action::Lose(7)).join(" ");
        let random = "-m statistic --mode random --probability 0.07";
        assert_eq!(some, format!("-d 198.18.0.0/24 {random} -j DROP"));
    }

    #[test]
    fn names_fit_into_links() {
        for good in ["home", "embassy", "a-2"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "Home", "2a", "router", "host", "abcdefghijk", "a/b", "a b"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
