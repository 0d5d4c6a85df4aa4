//! The guard of the network on a real kernel: pods are cgroups whose processes have a network namespace and a link of their
//! own, as a CNI plugin makes them, and a namespace beyond the node's one link is the outside.
//!
//! What is there is told by `tc` of those who made the queues, not by the agent (by its path: the shell has a small one of its own). How fast a machine without KVM moves packets
//! depends on the host: assertions are about settings, counters, and about which of two is more.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use anyhow::{Context, Result, ensure};

#[path = "agent/scene.rs"]
mod scene;

use scene::{ACT, LIMIT, OBSERVE, Scene, Setup};

const SETUP: Setup = Setup {
    kernel: "",
    controllers: &["cpu", "memory", "io"],
    flags: "--network",
};
/// The address beyond the node's link.
const OUTSIDE: &str = "10.9.0.2";
const PORT: u16 = 5001;
const BITS: &str = "duosuan_guard_limit_bits{node=\"vm\",guard=\"network\"}";
const CUTS: &str = "duosuan_guard_cuts_total{node=\"vm\",guard=\"network\"}";

/// A scene with a way out.
struct Net {
    scene: Scene,
    name: &'static str,
    /// A process in the outside.
    outside: String,
}

/// A pod of one cgroup, and its link: `pN`.
struct Pod {
    process: String,
    link: String,
    address: String,
}

impl Net {
    fn open(name: &'static str) -> Result<Self> {
        let scene = Scene::open_with(name, SETUP)?;
        let outside = namespace(&scene, name, "online")?;
        let into = format!("nsenter -t {outside} -n");
        scene.vm().run(&format!(
            "ip link add out0 type veth && ip link set veth0 netns {outside} && ip addr add 10.9.0.1/24 dev out0 && ip link set out0 up &&
             {into} ip link set lo up && {into} ip addr add {OUTSIDE}/24 dev veth0 && {into} ip link set veth0 up &&
             {into} ip route add default via 10.9.0.1 && ip route add default via {OUTSIDE} &&
             echo 1 > /proc/sys/net/ipv4/ip_forward"
        ))?;
        let net = Self { scene, name, outside };
        net.start("online", &net.outside, &format!("guest sink {PORT}"))?;
        Ok(net)
    }

    /// A pod whose processes are in a cgroup of the scene, which may hold several pods' containers.
    fn pod(&self, cgroup: &str, number: u8) -> Result<Pod> {
        let (link, address) = (format!("p{number}"), format!("10.1.{number}.2"));
        let process = namespace(&self.scene, self.name, cgroup)?;
        let into = format!("nsenter -t {process} -n");
        self.scene.vm().run(&format!(
            "ip link add {link} type veth && ip link set veth0 netns {process} &&
             ip addr add 10.1.{number}.1/24 dev {link} && ip link set {link} up &&
             {into} ip link set lo up && {into} ip addr add {address}/24 dev veth0 && {into} ip link set veth0 up &&
             {into} ip route add default via 10.1.{number}.1"
        ))?;
        Ok(Pod { process, link, address })
    }

    /// Has a process in a pod's namespace send to an address, so many KiB a second or all that goes.
    fn send(&self, cgroup: &str, from: &str, to: &str, kibibytes: u32) -> Result<()> {
        self.start(cgroup, from, &format!("guest send {to} {PORT} {kibibytes}"))
    }

    fn start(&self, cgroup: &str, process: &str, command: &str) -> Result<()> {
        self.scene.start(cgroup, &format!("nsenter -t {process} -n {command}"))
    }

    fn policy(&self, mode: &str, network: &str) -> String {
        let name = self.name;
        format!(
            "spec: {{mode: {mode}, guards: {{cpu: {{disabled: true}}, memory: {{disabled: true}}, io: {{disabled: true}}, network: {network}}}}}\n\
             groups: [{{path: {name}/online, tier: prod}}, {{path: {name}/batch, tier: batch}}, {{path: {name}/more, tier: batch}}]"
        )
    }

    fn agent(&self, mode: &str, network: &str) -> Result<String> {
        self.scene.start_agent_by(&self.policy(mode, network))
    }

    fn change(&self, network: &str) -> Result<()> {
        let path = format!("/run/{}/policy.yaml", self.name);
        self.scene.vm().write(&path, &self.policy(ACT, network))
    }

    /// Every queue, filter and shared action of the machine, without its counters.
    fn queues(&self) -> Result<String> {
        self.scene.vm().run(
            "/bin/tc qdisc show; for link in $(ls /sys/class/net); do
             for way in ingress egress; do /bin/tc filter show dev $link $way | sed \"s/^/$link $way /\"; done; done;
             /bin/tc actions ls action police | grep -v '^total'; true",
        )
    }

    fn until(&self, what: &str, seen: impl Fn(&str) -> bool) -> Result<()> {
        self.scene.repeat(what, || {
            let queues = self.queues()?;
            Ok(if seen(&queues) { Ok(()) } else { Err(queues) })
        })
    }

    fn is(&self, before: &str) -> Result<()> {
        let now = self.queues()?;
        ensure!(
            now == before,
            self.scene
                .explain(anyhow::anyhow!("not as before:\n{now}\nbut before:\n{before}"))
        );
        Ok(())
    }

    /// Waits until exactly these links are held, both ways.
    fn holds(&self, links: &[&str]) -> Result<()> {
        self.until(&format!("{links:?} are held, and no other"), |queues| {
            let held = |link: &str, way: &str| {
                let start = format!("{link} {way} ");
                queues
                    .lines()
                    .any(|line| line.starts_with(&start) && line.contains("police"))
            };
            let all = ["p1", "p2", "p3", "p4", "out0"];
            all.iter()
                .all(|link| [held(link, "ingress"), held(link, "egress")] == [links.contains(link); 2])
        })
    }

    /// Bytes a second that went over a link, by a counter of the node's end of it.
    fn rate(&self, link: &str, counter: &str) -> Result<f64> {
        let total = || -> Result<u64> {
            let file = format!("/sys/class/net/{link}/statistics/{counter}");
            Ok(self.scene.vm().run(&format!("cat {file}"))?.parse()?)
        };
        let before = total()?;
        let span = self.scene.seconds(4)?;
        Ok((total()? - before) as f64 / span)
    }

    /// Packets that were dropped, by all police actions together.
    fn dropped(&self) -> Result<u64> {
        let text = self.scene.vm().run("/bin/tc -s actions ls action police")?;
        let each = text.split("dropped ").skip(1).filter_map(|rest| rest.split(',').next());
        each.map(|count| Ok(count.trim().parse::<u64>()?)).sum()
    }

    /// What the agent exports; nothing before it does.
    fn metric(&self, name: &str) -> Vec<f64> {
        self.scene.metric(name).unwrap_or_default()
    }

    fn limit(&self) -> Option<f64> {
        self.metric(BITS).first().copied()
    }

    fn limit_until(&self, what: &str, seen: impl Fn(f64) -> bool) -> Result<()> {
        self.scene.repeat(what, || {
            let limit = self.limit();
            Ok(limit
                .filter(|bits| seen(*bits))
                .map(drop)
                .ok_or(format!("{limit:?} bits a second")))
        })
    }

    fn pods(&self, state: &str) -> String {
        format!("duosuan_node_network_pods{{node=\"vm\",state=\"{state}\"}}")
    }

    fn metric_is(&self, name: &str, value: f64) -> Result<()> {
        self.scene.repeat(&format!("{name} is {value}"), || {
            let now = self.metric(name);
            Ok(if now == [value] {
                Ok(())
            } else {
                Err(format!("{now:?}"))
            })
        })
    }
}

impl Drop for Net {
    /// The namespaces go with their processes, and with them the links.
    fn drop(&mut self) {
        let name = self.name;
        let _ = self.scene.vm().run(&format!(
            "kill -9 $(pidof duosuan-agent); cd /sys/fs/cgroup/{name}; echo 1 > cgroup.kill;
             while grep -q 'populated 1' cgroup.events; do sleep 0.1; done; [ ! -d more ] || rmdir more;
             while ls /sys/class/net | grep -q '^p[1-9]\\|^out'; do
                 for link in $(ls /sys/class/net | grep '^p[1-9]\\|^out'); do ip link del $link; done; sleep 0.1; done"
        ));
    }
}

/// A process of a cgroup in a network namespace of its own.
fn namespace(scene: &Scene, name: &str, cgroup: &str) -> Result<String> {
    let process = scene.vm().run(&format!(
        "sh -c 'echo $$ > /sys/fs/cgroup/{name}/{cgroup}/cgroup.procs && exec unshare -n guest sink {PORT}' > /dev/null 2>&1 & echo $!"
    ))?;
    scene.vm().wait(
        "a namespace of its own",
        LIMIT,
        &format!("[ $(readlink /proc/{process}/ns/net) = $(readlink /proc/self/ns/net) ] || echo there"),
        |text| text.contains("there").then_some(()),
    )?;
    Ok(process)
}

/// One more cgroup of batch.
fn more(net: &Net) -> Result<()> {
    let name = net.name;
    net.scene
        .vm()
        .run(&format!("mkdir /sys/fs/cgroup/{name}/more"))
        .map(drop)
}

#[test]
fn batch_sends_and_receives_no_more_than_its_rate_and_prod_as_before() -> Result<()> {
    let net = Net::open("rate")?;
    let (prod, batch) = (net.pod("online", 1)?, net.pod("batch", 2)?);
    let before = net.queues()?;
    net.send("online", &prod.process, OUTSIDE, 0)?;
    net.send("batch", &batch.process, OUTSIDE, 0)?;
    net.send("online", &net.outside, &batch.address, 0)?;
    let agent = net.agent(ACT, "{rate: 8M}")?;
    net.holds(&["p2"])?;
    net.metric_is(BITS, 8e6)?;
    net.scene.wait_for_metric(CUTS)?;
    net.metric_is(&net.pods("held"), 1.0)?;
    net.scene.repeat("batch is held both ways, and prod sends more", || {
        let prod = net.rate(&prod.link, "rx_bytes")?;
        // What the pod sends comes in here before some of it is dropped; what it receives goes out after that.
        let [sent, received] = [net.rate(&batch.link, "rx_bytes")?, net.rate(&batch.link, "tx_bytes")?];
        let good = sent < 2e6 && received < 1.5e6 && sent > 1e5 && received > 1e5 && prod > 2.0 * sent;
        Ok(if good {
            Ok(())
        } else {
            Err(format!(
                "prod sends {prod:.0} bytes a second, batch {sent:.0}, and receives {received:.0}"
            ))
        })
    })?;
    ensure!(net.dropped()? > 0, "nothing was dropped");

    // Another rate is set on what is there: no link is touched.
    net.change("{rate: 400M}")?;
    net.until("the rate is another", |queues| {
        queues.matches("rate 400Mbit").count() >= 2
    })?;
    net.holds(&["p2"])?;
    net.metric_is(BITS, 400e6)?;
    let held = net.rate(&batch.link, "rx_bytes")?;
    ensure!(
        held > 2e6,
        net.scene
            .explain(anyhow::anyhow!("batch sends {held:.0} bytes a second of 50 million"))
    );

    // Who takes our hooks off finds them again, until he has done it five times.
    for _ in 0..4 {
        net.scene.vm().run("/bin/tc qdisc del dev p2 clsact")?;
        net.holds(&["p2"])?;
    }
    net.scene.wait_for_metric("duosuan_reasserted_total")?;
    net.scene.vm().run("/bin/tc qdisc del dev p2 clsact")?;
    net.metric_is(&net.pods("taken"), 1.0)?;
    net.until("it is left to him", |queues| queues == before)?;

    net.scene.end(&agent)?;
    net.is(&before)?;
    net.scene.is_as_before()
}

#[test]
fn batch_has_what_prod_leaves_of_the_link_less_at_once_and_more_slowly() -> Result<()> {
    let net = Net::open("left")?;
    let (prod, batch) = (net.pod("online", 1)?, net.pod("batch", 2)?);
    let before = net.queues()?;
    let agent = net.agent(ACT, "{line: 80M}")?;
    net.limit_until("nine tenths of an idle link", |bits| bits == 72e6)?;
    net.send("batch", &batch.process, OUTSIDE, 0)?;
    net.scene.repeat("what is batch's own is not taken for prod's", || {
        let sent = net.rate(&batch.link, "rx_bytes")?;
        let limit = net.limit().context("no limit")?;
        Ok(if limit > 60e6 && sent > 1e6 {
            Ok(())
        } else {
            Err(format!("{limit} bits a second, it sends {sent:.0} bytes"))
        })
    })?;
    // 32 of 80 Mbit/s, or what the host manages.
    net.start("online", &prod.process, &format!("guest send {OUTSIDE} {PORT} 4000"))?;
    net.limit_until("prod's surge is taken from batch", |bits| bits < 62e6)?;
    net.scene.wait_for_metric(CUTS)?;
    ensure!(net.limit().is_some_and(|bits| bits >= 4e6), "less than the floor");
    net.scene.vm().run(&format!(
        "for process in $(pidof guest); do grep -q 'send.{OUTSIDE}.{PORT}.4000' /proc/$process/cmdline && kill $process; done; true"
    ))?;
    net.limit_until("batch has it back", |bits| bits == 72e6)?;

    // Where the driver says how fast the link is, nobody has to: a veth says 10 Gbit/s.
    net.change("{}")?;
    net.limit_until("nine tenths of what the driver says", |bits| bits > 8e9)?;
    // And where nothing leads out, there is nothing to share.
    net.scene.vm().run("ip route del default")?;
    net.holds(&[])?;
    net.scene.end(&agent)?;
    net.scene.vm().run(&format!("ip route add default via {OUTSIDE}"))?;
    net.is(&before)
}

#[test]
fn hooks_of_others_are_left_alone_and_pods_that_come_and_go_are_held_and_let_go() -> Result<()> {
    let net = Net::open("others")?;
    more(&net)?;
    let _taken = net.pod("batch", 2)?;
    net.scene
        .vm()
        .run("/bin/tc qdisc add dev p2 clsact && /bin/tc filter add dev p2 ingress pref 7 matchall classid 1:1")?;
    let before = net.queues()?;
    let agent = net.agent(ACT, "{rate: 8M}")?;
    net.metric_is(&net.pods("taken"), 1.0)?;
    net.is(&before)?;

    let came = net.pod("more", 3)?;
    net.holds(&["p3"])?;
    net.metric_is(&net.pods("taken"), 1.0)?;
    net.metric_is(&net.pods("held"), 1.0)?;
    let name = net.name;
    net.scene
        .vm()
        .run(&format!("echo 1 > /sys/fs/cgroup/{name}/more/cgroup.kill"))?;
    net.metric_is(&net.pods("held"), 0.0)?;
    net.until("nothing of the pod that went is left", |queues| queues == before)?;

    // One that uses the node's own network has no link: the node's are not its.
    net.scene.start("more", "guest pause")?;
    net.metric_is(&net.pods("apart"), 1.0)?;
    net.is(&before)?;
    net.scene.end(&agent)?;
    drop(came);
    net.is(&before)
}

#[test]
fn whatever_an_agent_that_was_killed_left_on_links_the_next_one_takes_off() -> Result<()> {
    let net = Net::open("netkill")?;
    more(&net)?;
    let (_one, _two) = (net.pod("batch", 2)?, net.pod("more", 3)?);
    let before = net.queues()?;
    const GUARD: &str = "{rate: 8M}";
    let takes_back = |what: &str| -> Result<()> {
        // It would do it again, and does not.
        let observer = net.agent(OBSERVE, GUARD)?;
        net.scene.wait_for_metric(CUTS).with_context(|| what.to_owned())?;
        net.is(&before).with_context(|| what.to_owned())?;
        net.scene.end(&observer)
    };
    let agent = net.agent(ACT, GUARD)?;
    net.holds(&["p2", "p3"])?;
    net.scene.kill(&agent)?;
    net.holds(&["p2", "p3"])?;
    takes_back("killed while it held")?;

    // The weights and limits of other guards are off, so that what is counted is the network's: rates, then links.
    for at in [
        "journalled:1",
        "journalled:2",
        "written:1",
        "written:2",
        "verified:1",
        "verified:2",
    ] {
        net.scene.dies_by(&net.policy(ACT, GUARD), at)?;
        takes_back(at)?;
    }

    // Its filters and rates are known without a journal.
    let agent = net.agent(ACT, GUARD)?;
    net.holds(&["p2", "p3"])?;
    net.scene.kill(&agent)?;
    net.scene.vm().run(&format!("rm /run/{}/journal", net.name))?;
    takes_back("without its journal")?;

    let agent = net.agent(ACT, GUARD)?;
    net.holds(&["p2", "p3"])?;
    net.scene.vm().write(
        &format!("/run/{}/policy.yaml", net.name),
        &format!("suspended: true\n{}", net.policy(ACT, GUARD))
            .replace("suspended: true\nspec: {", "spec: {suspended: true, "),
    )?;
    net.until("a policy that is suspended leaves nothing", |queues| queues == before)?;
    net.scene.end(&agent)?;
    net.is(&before)
}

#[test]
fn without_the_kernels_modules_the_guard_is_off_and_says_so_and_the_rest_goes_on() -> Result<()> {
    const FEATURE: &str = "duosuan_node_kernel_feature{node=\"vm\",feature=\"tc.police\"}";
    const OFF: &str = "duosuan_guard_state{node=\"vm\",guard=\"network\",state=\"Off\"}";
    let net = Net::open("modules")?;
    let _batch = net.pod("batch", 2)?;
    let before = net.queues()?;
    for module in ["act_police", "cls_matchall", "sch_ingress"] {
        net.scene.vm().run(&format!("rmmod {module}"))?;
        let agent = net.agent(ACT, "{rate: 8M}")?;
        let told = || -> Result<()> {
            net.scene
                .wait_for_metric("duosuan_kernel_errors_total{node=\"vm\",file=\"tc.police\"}")?;
            net.metric_is(FEATURE, 0.0)?;
            net.metric_is(OFF, 1.0)?;
            net.is(&before)?;
            net.scene.end(&agent)?;
            net.is(&before)
        };
        told().with_context(|| format!("without {module}"))?;
        net.scene.vm().run(&format!("insmod /modules/*-{module}.ko"))?;
    }
    // Nor where root is another user's: the kernel grants it nothing here.
    let agent = net
        .scene
        .start_agent_under("unshare -r", &net.policy(ACT, "{rate: 8M}"))?;
    net.metric_is(FEATURE, 0.0)?;
    net.metric_is(OFF, 1.0)?;
    net.scene
        .wait_for("batch/cpu.max", "the rest goes on", |value| !value.is_empty())?;
    net.is(&before)?;
    net.scene.end(&agent)?;
    net.is(&before)
}
