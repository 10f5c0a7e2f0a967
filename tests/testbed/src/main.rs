//! The command `testbed`: clusters up and down, faults, images, by hand and from scripts.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use testbed::{Component, Kind, Spec, Testbed, cache, disk, image, storage};

#[derive(Parser)]
#[command(about = "Real Kubernetes clusters in network namespaces, with faults on demand")]
struct Args {
    /// The instance (0 to 7); by default the only one that is up, or the lowest free one for `up`.
    #[arg(long, global = true)]
    instance: Option<u8>,
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Starts an instance and leaves it running.
    Up {
        /// Names of full clusters.
        #[arg(long, value_delimiter = ',', default_value = "home,embassy")]
        clusters: Vec<String>,
        /// Adds `witness`, an API server without a node.
        #[arg(long)]
        witness: bool,
        /// Leaves the storage provisioner out.
        #[arg(long)]
        no_storage: bool,
    },
    /// Removes an instance.
    Down,
    /// Shows instances, their clusters, kubeconfigs and memory.
    Status,
    /// Runs kubectl: `testbed kubectl home -- get pods`.
    Kubectl {
        /// The cluster.
        cluster: String,
        /// Arguments of kubectl.
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Removes everything of all dead instances.
    Clean,
    /// Builds everything that is cached: Kubernetes, tools, images.
    Build,
    /// Cuts two clusters apart, or one from everything.
    Cut {
        /// The cluster.
        a: String,
        /// The other; without it the cluster is cut from everything, the host included.
        b: Option<String>,
        /// Only packets from the first to the second are lost.
        #[arg(long)]
        one_way: bool,
    },
    /// Heals two clusters, one cluster, or everything.
    Heal {
        /// The cluster.
        a: Option<String>,
        /// The other.
        b: Option<String>,
    },
    /// Loses this many of a hundred packets between two clusters (0: none any more).
    Lose {
        /// The cluster.
        a: String,
        /// The other.
        b: String,
        /// Percent.
        percent: u8,
    },
    /// Freezes a component, or the whole site with its pods.
    Pause(Target),
    /// Lets it go on.
    Resume(Target),
    /// Kills a component, or the whole site with its pods as by loss of power.
    Kill(Target),
    /// Restarts a component, or the whole site.
    Restart(Target),
    /// Starts a component or a site that was killed.
    Start(Target),
    /// Fills the disk of a folder until so many bytes are left.
    FillDisk {
        /// The folder.
        folder: PathBuf,
        /// Bytes to leave.
        #[arg(default_value_t = 0)]
        leave: u64,
    },
    /// Gives the space back.
    FreeDisk {
        /// The folder.
        folder: PathBuf,
    },
    /// The storage of one cluster (started by `up`).
    #[command(hide = true)]
    Provisioner(storage::ProvisionerArgs),
    /// Makes and loads images.
    Image {
        #[command(subcommand)]
        verb: ImageVerb,
    },
}

#[derive(clap::Args)]
struct Target {
    /// The cluster.
    cluster: String,
    /// The component; without it the whole site.
    component: Option<Component>,
}

#[derive(Subcommand)]
enum ImageVerb {
    /// Loads an OCI archive into a cluster.
    Load {
        /// The cluster.
        cluster: String,
        /// The archive.
        archive: PathBuf,
    },
    /// Builds a Containerfile (`FROM scratch`) into an OCI archive.
    Build {
        /// The Containerfile.
        #[arg(short, long, default_value = "Containerfile")]
        file: PathBuf,
        /// The image's name.
        #[arg(short, long)]
        tag: String,
        /// The archive to write.
        #[arg(short, long)]
        output: PathBuf,
        /// `NAME=VALUE` for an ARG of the file.
        #[arg(long = "build-arg")]
        build_args: Vec<String>,
        /// The folder that it is built of.
        #[arg(default_value = ".")]
        context: PathBuf,
    },
    /// Makes the image of PostgreSQL, and loads it into a cluster if one is named.
    Postgres {
        /// The cluster.
        cluster: Option<String>,
    },
}

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| "info,kube_client=off".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_writer(std::io::stderr).init();
    match run(Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("testbed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<ExitCode> {
    let instance = args.instance;
    match args.command {
        Verb::Up { clusters, witness, no_storage } => up(instance, &clusters, witness, !no_storage)?,
        Verb::Down => attach(instance)?.down()?,
        Verb::Status => status()?,
        Verb::Kubectl { cluster, args } => return kubectl(&attach(instance)?, &cluster, &args),
        Verb::Clean => {
            for number in testbed::clean_dead()? {
                println!("removed what instance {number} left");
            }
        }
        Verb::Build => build()?,
        Verb::Cut { a, b: Some(b), one_way: false } => attach(instance)?.cut(&a, &b)?,
        Verb::Cut { a, b: Some(b), one_way: true } => attach(instance)?.cut_one_way(&a, &b)?,
        Verb::Cut { one_way: true, .. } => bail!("one way to what? name two clusters"),
        Verb::Cut { a, .. } => attach(instance)?.cut_off(&a)?,
        Verb::Heal { a: Some(a), b: Some(b) } => attach(instance)?.heal(&a, &b)?,
        Verb::Heal { a: Some(a), b: None } => attach(instance)?.rejoin(&a)?,
        Verb::Heal { .. } => attach(instance)?.heal_all()?,
        Verb::Lose { a, b, percent } => attach(instance)?.lose(&a, &b, percent)?,
        Verb::FillDisk { folder, leave } => println!("{}", disk::fill(&folder, leave)?.display()),
        Verb::FreeDisk { folder } => disk::free(&folder)?,
        Verb::Image { verb } => images(instance, verb)?,
        Verb::Provisioner(args) => tokio::runtime::Runtime::new()?.block_on(storage::run(args))?,
        fault => site(instance, fault)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn attach(instance: Option<u8>) -> Result<Testbed> {
    let number = match (instance, testbed::live_instances().as_slice()) {
        (Some(number), _) => number,
        (None, [only]) => *only,
        (None, []) => bail!("no instance is up"),
        (None, many) => bail!("more than one instance is up ({many:?}): say --instance"),
    };
    Testbed::attach(number)
}

fn up(instance: Option<u8>, clusters: &[String], witness: bool, storage: bool) -> Result<()> {
    let names: Vec<&str> = clusters.iter().map(String::as_str).collect();
    let mut spec = Spec { instance, storage, detached: true, ..Spec::full(&names) };
    if witness {
        spec = spec.with_witness();
    }
    let began = std::time::Instant::now();
    let bed = Testbed::up(&spec)?;
    println!("instance {} is up after {:.1} s", bed.number(), began.elapsed().as_secs_f64());
    show(&bed);
    Ok(())
}

fn status() -> Result<()> {
    for number in testbed::live_instances() {
        println!("instance {number}");
        let bed = Testbed::attach(number)?;
        show(&bed);
        for fault in bed.network().list_faults()?.lines().filter(|line| line.starts_with("-A")) {
            println!("  fault: {fault}");
        }
    }
    Ok(())
}

fn show(bed: &Testbed) {
    for cluster in bed.clusters() {
        let what = if cluster.kind() == Kind::Full { "full" } else { "control plane" };
        let running: Vec<String> = cluster.running().into_iter().map(|(name, _)| name).collect();
        println!("  {} ({what}) at {}, {} MiB", cluster.name(), cluster.node_ip(), cluster.memory() >> 20);
        println!("    KUBECONFIG={}", cluster.kubeconfig().display());
        println!("    running: {}", running.join(" "));
    }
}

fn kubectl(bed: &Testbed, cluster: &str, args: &[String]) -> Result<ExitCode> {
    let status = bed.cluster(cluster)?.kubectl_command()?.args(args).status()?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(ExitCode::from(code))
}

fn build() -> Result<()> {
    println!("{}", cache::kube()?.kube.display());
    println!("{}", cache::helm()?.display());
    println!("{}", cache::kindcheck()?.display());
    println!("{}", cache::snapshot_crds()?.display());
    for archive in image::base()? {
        println!("{}", archive.display());
    }
    println!("{}", image::postgres()?.display());
    Ok(())
}

fn images(instance: Option<u8>, verb: ImageVerb) -> Result<()> {
    match verb {
        ImageVerb::Load { cluster, archive } => attach(instance)?.cluster(&cluster)?.load_image(&archive),
        ImageVerb::Build { file, tag, output, build_args, context } => {
            image::containerfile(&file, &context, &build_args, &tag, &output)
        }
        ImageVerb::Postgres { cluster } => {
            let archive = image::postgres()?;
            println!("{}", archive.display());
            match cluster {
                Some(cluster) => attach(instance)?.cluster(&cluster)?.load_image(&archive),
                None => Ok(()),
            }
        }
    }
}

fn site(instance: Option<u8>, verb: Verb) -> Result<()> {
    let bed = attach(instance)?;
    let cluster = |target: &Target| bed.cluster(&target.cluster).context("which cluster?");
    match verb {
        Verb::Pause(t) => match t.component {
            Some(component) => cluster(&t)?.pause(component),
            None => cluster(&t)?.pause_site(),
        },
        Verb::Resume(t) => match t.component {
            Some(component) => cluster(&t)?.resume(component),
            None => cluster(&t)?.resume_site(),
        },
        Verb::Kill(t) => match t.component {
            Some(component) => cluster(&t)?.kill(component),
            None => cluster(&t)?.kill_site(),
        },
        Verb::Restart(t) => match t.component {
            Some(component) => cluster(&t)?.restart(component),
            None => cluster(&t)?.kill_site().and_then(|()| cluster(&t)?.start_site()),
        },
        Verb::Start(t) => match t.component {
            Some(component) => cluster(&t)?.start(component),
            None => cluster(&t)?.start_site(),
        },
        _ => bail!("not a fault of a site"),
    }
}
