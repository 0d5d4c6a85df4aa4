//! Starting and ending a control plane.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    build::build_until,
    certificates::{Authority, write_private, write_service_account_keys},
    component::Component,
    error::Error,
    go::Tool,
    instance::Instance,
    ready::Probe,
};

/// What to start.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The binary; built if None.
    pub binary: Option<PathBuf>,
    /// Folder for data, logs and kubeconfig; if None, one that is removed at the end.
    pub dir: Option<PathBuf>,
    /// Port of the API server; a free one if None.
    pub port: Option<u16>,
    /// Addresses and names, besides those of loopback, under which the API server is reached: `10.0.2.2` from a virtual machine.
    pub names: Vec<String>,
    /// Also run kube-controller-manager: Deployments, Jobs, garbage collection, taints of nodes that are not ready.
    pub controller_manager: bool,
    /// Also run kwok, which plays kubelet for nodes annotated `kwok.x-k8s.io/node: fake`.
    pub kwok: bool,
    /// Further flags of kube-apiserver.
    pub apiserver_flags: Vec<String>,
    /// How long it may take to become ready; 60 s if None.
    pub deadline: Option<Duration>,
}

/// A running control plane. Dropping it ends every process and removes a temporary folder.
pub struct ControlPlane {
    // In the order in which they are ended: what depends on another goes first.
    components: Vec<Component>,
    authority: Authority,
    server: String,
    kubeconfig: PathBuf,
    instance: Instance,
}

/// How often a start is tried anew after another process took a port between its choice and its use.
const ATTEMPTS: u32 = 5;

impl ControlPlane {
    /// Starts it and waits until the API server is ready.
    pub fn start(options: &Options) -> Result<ControlPlane, Error> {
        ControlPlane::start_until(options, &AtomicBool::new(false))
    }

    /// [`ControlPlane::start`] that gives up, leaving nothing, soon after `stop` becomes true.
    pub fn start_until(options: &Options, stop: &AtomicBool) -> Result<ControlPlane, Error> {
        let binary = match &options.binary {
            Some(binary) => binary.clone(),
            None => build_until(Tool::ControlPlane, &mut |_| {}, stop)?,
        };
        let instance = Instance::take(options.dir.as_deref())?;
        let mut starting = Starting::prepare(options, &binary, instance, stop)?;
        let mut attempt = 1;
        loop {
            match starting.attempt() {
                Ok(()) => break,
                Err(error) => {
                    let lost = starting.components.iter().any(Component::lost_a_port);
                    starting.components.clear();
                    if !lost || attempt == ATTEMPTS {
                        return Err(error);
                    }
                    attempt += 1;
                }
            }
        }
        starting.finish()
    }

    /// Kubeconfig of an administrator, readable by this user only.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// URL of the API server.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Folder with its data and logs.
    pub fn dir(&self) -> &Path {
        self.instance.path()
    }

    /// Process ids of what runs.
    pub fn pids(&self) -> Vec<u32> {
        self.components.iter().map(Component::id).collect()
    }

    /// An error if a component has ended.
    pub fn check(&mut self) -> Result<(), Error> {
        self.components.iter_mut().try_for_each(Component::check)
    }

    /// A kubeconfig, as text, for `user` in `group` (a kubelet: `system:node:NAME` in `system:nodes`), which reaches the
    /// API server at `server`, or at its address on loopback.
    pub fn kubeconfig_for(&self, user: &str, group: &str, server: Option<&str>) -> Result<String, Error> {
        kubeconfig(&self.authority, user, group, server.unwrap_or(&self.server))
    }

    /// Ends it.
    pub fn stop(self) {
        drop(self);
    }
}

/// A start that is under way.
struct Starting<'a> {
    options: &'a Options,
    binary: &'a Path,
    instance: Instance,
    authority: Authority,
    components: Vec<Component>,
    server: String,
    stop: &'a AtomicBool,
}

impl<'a> Starting<'a> {
    /// Writes keys and certificates.
    fn prepare(
        options: &'a Options,
        binary: &'a Path,
        instance: Instance,
        stop: &'a AtomicBool,
    ) -> Result<Starting<'a>, Error> {
        let dir = instance.path();
        let authority = Authority::new("duosuan-embedded")?;
        let mut names: Vec<String> = LOOPBACK_NAMES.iter().map(|&name| name.to_owned()).collect();
        names.extend(options.names.iter().cloned());
        write_private(&dir.join("ca.crt"), &authority.certificate())?;
        authority.server(&names)?.write(dir, "apiserver")?;
        write_service_account_keys(dir)?;
        // etcd believes an authority of its own: no user of the API server may open the data behind it.
        let etcd = Authority::new("duosuan-embedded-etcd")?;
        write_private(&dir.join("etcd-ca.crt"), &etcd.certificate())?;
        etcd.server(&["127.0.0.1".to_owned()])?.write(dir, "etcd")?;
        Ok(Starting {
            options,
            binary,
            instance,
            authority,
            components: Vec::new(),
            server: String::new(),
            stop,
        })
    }

    /// Starts all on freshly chosen ports.
    fn attempt(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + self.options.deadline.unwrap_or(Duration::from_secs(60));
        if let Some(port) = self.options.port {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|error| match error.kind() {
                std::io::ErrorKind::AddrInUse => Error::PortInUse { port },
                _ => Error::io("bind", format!("127.0.0.1:{port}"))(error),
            })?;
        }
        let [client, peer, free] = free_ports()?;
        let port = self.options.port.unwrap_or(free);
        self.server = format!("https://127.0.0.1:{port}");
        self.run("etcd", etcd_flags(client, peer))?;
        let mut flags = apiserver_flags(client, port);
        flags.extend(self.options.apiserver_flags.iter().cloned());
        self.run("kube-apiserver", flags)?;
        self.wait_ready(port, deadline)?;
        let dir = self.instance.path();
        let own = |name: &str, user: &str, group: &str| {
            write_private(
                &dir.join(name),
                &kubeconfig(&self.authority, user, group, &self.server)?,
            )
        };
        own("kubeconfig", "duosuan-admin", "system:masters")?;
        if self.options.controller_manager {
            // All controllers share one identity here, so it needs what the roles of all of them allow together.
            own(
                "controller-manager.kubeconfig",
                "system:kube-controller-manager",
                "system:masters",
            )?;
        }
        if self.options.kwok {
            own("kwok.kubeconfig", "kwok", "system:masters")?;
            write_private(&dir.join("kwok.yaml"), include_str!("../kwok.yaml"))?;
        }
        if self.options.controller_manager {
            self.run("kube-controller-manager", controller_manager_flags(&self.server))?;
        }
        if self.options.kwok {
            self.run("kwok", kwok_flags())?;
        }
        Ok(())
    }

    fn run(&mut self, name: &'static str, flags: Vec<String>) -> Result<(), Error> {
        let component = Component::start(self.binary, self.instance.path(), name, &flags)?;
        self.components.insert(0, component);
        Ok(())
    }

    fn wait_ready(&mut self, port: u16, deadline: Instant) -> Result<(), Error> {
        let probe = Probe::new(port, self.authority.certificate_der());
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Stopped);
            }
            self.components.iter_mut().try_for_each(Component::check)?;
            let why = match &probe {
                Ok(probe) => match probe.ready() {
                    Ok(()) => return Ok(()),
                    Err(error) => error.to_string(),
                },
                Err(error) => error.to_string(),
            };
            if Instant::now() >= deadline {
                let what = format!("is not ready ({why})");
                return Err(self
                    .components
                    .first()
                    .map_or(Error::Stopped, |apiserver| apiserver.failed(what)));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn finish(self) -> Result<ControlPlane, Error> {
        let Starting {
            instance,
            authority,
            components,
            server,
            ..
        } = self;
        Ok(ControlPlane {
            kubeconfig: instance.path().join("kubeconfig"),
            components,
            authority,
            server,
            instance,
        })
    }
}

const LOOPBACK_NAMES: [&str; 6] = [
    "127.0.0.1",
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// Three free ports: all are held until all are chosen, so that they differ.
fn free_ports() -> Result<[u16; 3], Error> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(Error::io("bind", "127.0.0.1:0"));
    let held = [bind()?, bind()?, bind()?];
    let port = |listener: &TcpListener| {
        listener
            .local_addr()
            .map(|address| address.port())
            .map_err(Error::io("bind", "127.0.0.1:0"))
    };
    let [client, peer, api] = &held;
    Ok([port(client)?, port(peer)?, port(api)?])
}

fn flags_of(flags: &[&str]) -> Vec<String> {
    flags.iter().map(|&flag| flag.to_owned()).collect()
}

fn etcd_flags(client: u16, peer: u16) -> Vec<String> {
    let mut flags = flags_of(&[
        "--data-dir=etcd",
        "--name=default",
        // The data is worth no more than the process: what survives a crash of the machine does not matter.
        "--unsafe-no-fsync",
        "--client-cert-auth",
        "--trusted-ca-file=etcd-ca.crt",
        "--cert-file=etcd.crt",
        "--key-file=etcd.key",
        "--peer-client-cert-auth",
        "--peer-trusted-ca-file=etcd-ca.crt",
        "--peer-cert-file=etcd.crt",
        "--peer-key-file=etcd.key",
        "--quota-backend-bytes=8589934592",
        "--log-level=warn",
    ]);
    for (name, port) in [
        ("listen-client-urls", client),
        ("advertise-client-urls", client),
        ("listen-peer-urls", peer),
        ("initial-advertise-peer-urls", peer),
    ] {
        flags.push(format!("--{name}=https://127.0.0.1:{port}"));
    }
    flags.push(format!("--initial-cluster=default=https://127.0.0.1:{peer}"));
    flags
}

fn apiserver_flags(etcd: u16, port: u16) -> Vec<String> {
    let mut flags = flags_of(&[
        "--etcd-cafile=etcd-ca.crt",
        "--etcd-certfile=etcd.crt",
        "--etcd-keyfile=etcd.key",
        "--bind-address=127.0.0.1",
        "--tls-cert-file=apiserver.crt",
        "--tls-private-key-file=apiserver.key",
        "--client-ca-file=ca.crt",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-account-key-file=sa.pub",
        "--service-account-signing-key-file=sa.key",
        "--service-cluster-ip-range=10.0.0.0/16",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        // Without it a pod would wait for its namespace's default service account and mount a token that nothing here uses.
        "--disable-admission-plugins=ServiceAccount",
        "--kubelet-preferred-address-types=Hostname,InternalIP",
        // A cluster of thousands of simulated nodes has one client: no fair queueing between its parts.
        "--max-requests-inflight=2000",
        "--max-mutating-requests-inflight=1000",
        "--event-ttl=1h",
    ]);
    flags.push(format!("--etcd-servers=https://127.0.0.1:{etcd}"));
    flags.push(format!("--secure-port={port}"));
    flags
}

fn controller_manager_flags(server: &str) -> Vec<String> {
    let mut flags = flags_of(&[
        "--kubeconfig=controller-manager.kubeconfig",
        "--authentication-kubeconfig=controller-manager.kubeconfig",
        "--authorization-kubeconfig=controller-manager.kubeconfig",
        "--service-account-private-key-file=sa.key",
        "--root-ca-file=ca.crt",
        "--leader-elect=false",
        // It serves nothing that is needed here, so that no port is taken.
        "--secure-port=0",
        "--kube-api-qps=1000",
        "--kube-api-burst=2000",
        // kwok.yaml makes simulated nodes report each three to four minutes.
        "--node-monitor-grace-period=10m",
        "--concurrent-job-syncs=20",
    ]);
    flags.push(format!("--master={server}"));
    flags
}

fn kwok_flags() -> Vec<String> {
    flags_of(&[
        "--kubeconfig=kwok.kubeconfig",
        "--config=kwok.yaml",
        // No leases. With them kwok 0.8 asks its cache whether it holds the lease of a pod's node, and forgets the pod if the
        // cache does not know yet: a pod that is bound while its node is new would never start. The stage node-heartbeat of
        // kwok.yaml does the leases' work. A flag, because a 0 in the file counts as absent.
        "--node-lease-duration-seconds=0",
    ])
}

/// Kubeconfig with everything inside.
fn kubeconfig(authority: &Authority, user: &str, group: &str, server: &str) -> Result<String, Error> {
    let identity = authority.client(user, group)?;
    let [ca, certificate, key] =
        [authority.certificate(), identity.certificate, identity.key].map(|pem| STANDARD.encode(pem));
    Ok(format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: duosuan\ncontexts:\n- name: duosuan\n  context: {{cluster: duosuan, user: {user:?}}}\n\
         clusters:\n- name: duosuan\n  cluster:\n    server: {server}\n    certificate-authority-data: {ca}\n\
         users:\n- name: {user:?}\n  user:\n    client-certificate-data: {certificate}\n    client-key-data: {key}\n"
    ))
}
