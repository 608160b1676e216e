//! Which node of which job this process runs on, by what started it: Slurm, Kubernetes, torchrun or MPI. Owns the
//! variables of each and how their numbers become the index of a node and a way to the other nodes' addresses. It must
//! never guess where they contradict each other: that is an error that names the flag which says it.

use rudder_peers::discovery::{Discovery, expand_hosts};

/// Longest text of a variable that becomes part of a name.
const JOB_CHARS_MAX: usize = 200;

/// What a person says of the job on the command line.
#[derive(Debug, Clone, Default)]
pub(super) struct Said {
    /// `--node`, or `node.index` of the configuration.
    pub(super) node: Option<u16>,
    /// `--nodes`.
    pub(super) nodes: Option<String>,
    /// `--world`.
    pub(super) world: Option<u16>,
    /// `--rendezvous`.
    pub(super) rendezvous: Option<String>,
    /// `--service`.
    pub(super) service: Option<String>,
    /// The configuration says where the nodes are.
    pub(super) addresses: bool,
}

/// How the nodes of a job learn each other's addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// The configuration says them.
    Configured,
    /// The daemon finds them.
    Found(Discovery),
    /// `host` or `host:port` by node index.
    Listed(Vec<String>),
    /// All nodes meet at node 0, which is at this host, or `host:port`.
    Meet(String),
}

/// One node of a job of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// Its index, which is the part that it serves.
    pub(super) node: u16,
    /// Nodes of the job, where that is known.
    pub(super) nodes: Option<u16>,
    /// How it finds the others.
    pub(super) way: Way,
}

/// Where this process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spot {
    /// What said so, for messages.
    pub(super) by: &'static str,
    /// The job, to tell its daemons from those of others; empty where that does not matter.
    pub(super) job: String,
    /// Which of the processes of this node it is: 0 starts the daemon, the others wait for it.
    pub(super) local_rank: u32,
    /// The node; `None` where all parts are served on this machine.
    pub(super) member: Option<Member>,
}

/// What a launcher says.
struct Launched {
    by: &'static str,
    job: String,
    local_rank: u32,
    node: u16,
    nodes: Option<u16>,
    /// None where the launcher does not say where the others are.
    way: Option<Way>,
}

/// A variable of the environment by name; empty ones are not set.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Spot {
    /// Reads the environment, and what was said over it.
    ///
    /// # Errors
    /// In words for the person who typed the command: what is missing or contradicts.
    pub(super) fn find(said: &Said, environment: Environment<'_>) -> Result<Self, String> {
        let launched = launched(said, environment)?;
        let Some(node) = said.node.or(launched.as_ref().map(|launched| launched.node)) else {
            return here(said, "this machine", String::new(), 0);
        };
        let (by, job, local_rank, told, way) = match launched {
            Some(it) => (it.by, it.job, it.local_rank, it.nodes, it.way),
            None => ("--node", String::new(), 0, None, None),
        };
        let listed = said.nodes.as_deref().map(|list| list_of(list)).transpose()?;
        let nodes = match (&listed, said.world) {
            (Some(hosts), Some(world)) if hosts.len() != usize::from(world) => {
                return Err(format!("--nodes lists {} hosts, and --world says {world}", hosts.len()));
            }
            (Some(hosts), _) => u16::try_from(hosts.len()).ok(),
            (None, world) => world.or(told),
        };
        if nodes == Some(1) {
            return here(&Said::default(), by, job, local_rank);
        }
        if let Some(nodes) = nodes.filter(|&nodes| node >= nodes) {
            return Err(format!("node {node} is beyond the last of {nodes} nodes ({by}); indices begin at 0"));
        }
        let way = way_of(said, listed, way)?.ok_or_else(|| nowhere(by, node))?;
        Ok(Self { by, job, local_rank, member: Some(Member { node, nodes, way }) })
    }
}

/// All parts on this machine.
fn here(said: &Said, by: &'static str, job: String, local_rank: u32) -> Result<Spot, String> {
    let flags = [
        ("--nodes", said.nodes.is_some()),
        ("--world", said.world.is_some()),
        ("--rendezvous", said.rendezvous.is_some()),
        ("--service", said.service.is_some()),
    ];
    match flags.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(format!("{flag} needs the index of this node: pass --node N, from 0")),
        None => Ok(Spot { by, job, local_rank, member: None }),
    }
}

/// What was said wins over what the launcher offers.
fn way_of(said: &Said, listed: Option<Vec<String>>, offered: Option<Way>) -> Result<Option<Way>, String> {
    if let Some(hosts) = listed {
        return Ok(Some(Way::Listed(hosts)));
    }
    if said.addresses {
        return Ok(Some(Way::Configured));
    }
    if let Some(host) = &said.rendezvous {
        return Ok(Some(Way::Meet(host.clone())));
    }
    match said.service.as_ref().filter(|service| service.contains("{node}")) {
        Some(pattern) => Ok(Some(Way::Found(of_service(pattern)?))),
        None => Ok(offered),
    }
}

fn of_service(pattern: &str) -> Result<Discovery, String> {
    format!("dns:{pattern}").parse().map_err(|problem| format!("--service: {problem}"))
}

fn nowhere(by: &str, node: u16) -> String {
    format!(
        "node {node} ({by}) does not know where the other nodes are: pass --rendezvous HOST with the host of node 0, --nodes \
         a,b,c with all hosts, --service NAME in Kubernetes, or --set peers.discovery=..."
    )
}

/// Hosts as a person writes them: with commas, ports allowed, or as Slurm writes them.
fn list_of(list: &str) -> Result<Vec<String>, String> {
    if list.contains('[') && !list.contains(':') {
        return expand_hosts(list).map_err(|problem| format!("--nodes: {problem}"));
    }
    let hosts: Vec<String> = list.split(',').map(|host| host.trim().to_owned()).collect();
    match hosts.iter().any(|host| host.is_empty() || host.contains(char::is_whitespace)) {
        true => Err(format!(
            "--nodes {list}: write the hosts of all nodes with commas between, in the order of their indices"
        )),
        false => Ok(hosts),
    }
}

/// The first launcher that has left its variables.
fn launched(said: &Said, environment: Environment<'_>) -> Result<Option<Launched>, String> {
    for look in [slurm, kubernetes, torch, mpi] {
        if let Some(found) = look(said, environment)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

type Found = Result<Option<Launched>, String>;

fn number<N: std::str::FromStr>(environment: Environment<'_>, name: &str) -> Result<Option<N>, String> {
    let Some(text) = environment(name) else { return Ok(None) };
    text.trim().parse().map(Some).map_err(|_| format!("the environment says {name}={text}, which is no such number"))
}

fn job(environment: Environment<'_>, names: &[&str]) -> String {
    let parts = names.iter().filter_map(|name| environment(name));
    parts.map(|part| part.chars().take(JOB_CHARS_MAX).collect::<String>()).collect::<Vec<_>>().join(" ")
}

/// A step of Slurm. Where torchrun runs in it, the node is Slurm's and the rank within the node torchrun's.
fn slurm(_: &Said, environment: Environment<'_>) -> Found {
    let list = environment("SLURM_STEP_NODELIST").or_else(|| environment("SLURM_JOB_NODELIST"));
    let (Some(list), Some(node)) = (list, number(environment, "SLURM_NODEID")?) else { return Ok(None) };
    let hosts = expand_hosts(&list).map_err(|problem| format!("the hosts of the Slurm job: {problem}"))?;
    let local_rank = match number(environment, "LOCAL_RANK")? {
        Some(rank) => rank,
        None => number(environment, "SLURM_LOCALID")?.unwrap_or(0),
    };
    Ok(Some(Launched {
        by: "Slurm",
        job: job(environment, &["SLURM_JOB_ID"]),
        local_rank,
        node,
        nodes: u16::try_from(hosts.len()).ok(),
        way: Some(Way::Found(Discovery::Slurm)),
    }))
}

/// A pod of a StatefulSet: its number is the end of its host's name. Only with the name of the headless service,
/// because a pod may as well serve all parts.
fn kubernetes(said: &Said, environment: Environment<'_>) -> Found {
    let Some(service) = said.service.clone() else { return Ok(None) };
    let host = environment("HOSTNAME").unwrap_or_default();
    let short = host.split('.').next().unwrap_or_default();
    let Some((set, number)) = short.rsplit_once('-').and_then(|(set, end)| Some((set, end.parse().ok()?))) else {
        return match said.node {
            Some(_) if service.contains("{node}") => Ok(None),
            _ => Err(format!(
                "--service: the host's name `{host}` does not end in a number as those of the pods of a StatefulSet do; \
                 pass --node N and a pattern such as --service 'rudder-{{node}}.rudder'"
            )),
        };
    };
    let pattern = if service.contains("{node}") { service } else { format!("{set}-{{node}}.{service}") };
    let found = of_service(&pattern)?;
    let local_rank = self::number(environment, "LOCAL_RANK")?.unwrap_or(0);
    let way = Some(Way::Found(found));
    Ok(Some(Launched { by: "Kubernetes", job: String::new(), local_rank, node: number, nodes: None, way }))
}

/// torchrun, or what sets the same variables: `GROUP_RANK` is the node.
fn torch(_: &Said, environment: Environment<'_>) -> Found {
    let (Some(rank), Some(world)) = (number::<u32>(environment, "RANK")?, number::<u32>(environment, "WORLD_SIZE")?)
    else {
        return Ok(None);
    };
    let Some(master) = environment("MASTER_ADDR") else { return Ok(None) };
    let local_rank = number(environment, "LOCAL_RANK")?.unwrap_or(0);
    let per_node = number(environment, "LOCAL_WORLD_SIZE")?.unwrap_or(1).max(1);
    let of_ranks = |ranks: u32| u16::try_from(ranks).ok();
    let node = match number(environment, "GROUP_RANK")? {
        Some(group) => Some(group),
        None => of_ranks(rank / per_node),
    };
    let nodes = match number(environment, "GROUP_WORLD_SIZE")? {
        Some(groups) => Some(groups),
        None => of_ranks(world / per_node),
    };
    let node = node.ok_or_else(|| format!("RANK={rank}: too many nodes"))?;
    let job = job(environment, &["TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"]);
    // On one machine, jobs over the same dataset share its daemons.
    let job = if nodes == Some(1) { String::new() } else { job };
    Ok(Some(Launched { by: "torchrun", job, local_rank, node, nodes, way: Some(Way::Meet(master)) }))
}

/// Rank, size, rank within the node, ranks of the node, and the job, as some MPI calls them.
const MPI: [[&str; 5]; 4] = [
    [
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
        "PMIX_NAMESPACE",
    ],
    [
        "MV2_COMM_WORLD_RANK",
        "MV2_COMM_WORLD_SIZE",
        "MV2_COMM_WORLD_LOCAL_RANK",
        "MV2_COMM_WORLD_LOCAL_SIZE",
        "PMI_JOBID",
    ],
    ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", "PMI_JOBID"],
    ["PMIX_RANK", "PMIX_SIZE", "PMIX_LOCAL_RANK", "PMIX_LOCAL_SIZE", "PMIX_NAMESPACE"],
];

/// A process of MPI. MPI counts processes, not nodes: ranks fill one node before the next, as they do unless told
/// otherwise.
fn mpi(said: &Said, environment: Environment<'_>) -> Found {
    for [rank_name, size_name, local_rank_name, local_size_name, job_name] in MPI {
        let (rank, size) = (number::<u32>(environment, rank_name)?, number::<u32>(environment, size_name)?);
        let (Some(rank), Some(size)) = (rank, size) else { continue };
        let local_rank = number(environment, local_rank_name)?.unwrap_or(0);
        let per_node = number(environment, local_size_name)?.unwrap_or(1).max(1);
        let contradicts = size % per_node != 0 || rank % per_node != local_rank;
        if contradicts && said.node.is_none() {
            return Err(format!(
                "rank {rank} of {size} is number {local_rank} of the {per_node} of its node: the ranks do not fill one node \
                 before the next, so the node's index is not known; pass --node N and --world"
            ));
        }
        let of_ranks = |ranks: u32| u16::try_from(ranks).map_err(|_| format!("{rank_name}={rank}: too many nodes"));
        let nodes = Some(of_ranks(size / per_node)?).filter(|_| !contradicts);
        let job = if nodes == Some(1) { String::new() } else { job(environment, &[job_name]) };
        let way = environment("MASTER_ADDR").map(Way::Meet);
        return Ok(Some(Launched { by: "MPI", job, local_rank, node: of_ranks(rank / per_node)?, nodes, way }));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(said: &Said, variables: &[(&str, &str)]) -> Result<Spot, String> {
        let variables: Vec<(String, String)> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Spot::find(said, &move |wanted| {
            variables.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone())
        })
    }

    fn member(said: &Said, variables: &[(&str, &str)]) -> (u16, Option<u16>, Way, u32) {
        let spot = find(said, variables).unwrap();
        let member = spot.member.unwrap();
        (member.node, member.nodes, member.way, spot.local_rank)
    }

    #[test]
    fn without_a_launcher_all_parts_are_served_here() {
        let spot = find(&Said::default(), &[("SLURM_JOB_NODELIST", "n[0-3]")]).unwrap();
        assert_eq!((spot.member, spot.local_rank, spot.job), (None, 0, String::new()));
    }

    #[test]
    fn torchrun_says_the_group_and_where_all_meet() {
        let torchrun = [
            ("RANK", "5"),
            ("WORLD_SIZE", "8"),
            ("LOCAL_RANK", "1"),
            ("LOCAL_WORLD_SIZE", "4"),
            ("GROUP_RANK", "1"),
            ("GROUP_WORLD_SIZE", "2"),
            ("MASTER_ADDR", "host0"),
            ("MASTER_PORT", "29500"),
            ("TORCHELASTIC_RUN_ID", "none"),
        ];
        let meet = Way::Meet("host0".to_owned());
        assert_eq!(member(&Said::default(), &torchrun), (1, Some(2), meet.clone(), 1));
        let without_groups: Vec<_> = torchrun.iter().filter(|(name, _)| !name.starts_with("GROUP")).copied().collect();
        assert_eq!(member(&Said::default(), &without_groups), (1, Some(2), meet, 1));
        assert_eq!(find(&Said::default(), &torchrun).unwrap().job, "none host0 29500");
        // One machine: all parts here, and the second process waits.
        let single =
            [("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "2"), ("MASTER_ADDR", "h")];
        let spot = find(&Said::default(), &single).unwrap();
        assert_eq!((spot.member, spot.local_rank, spot.job.as_str()), (None, 1, ""));
    }

    #[test]
    fn slurm_says_node_and_hosts_and_torchrun_within_it_the_local_rank() {
        let mut step = vec![
            ("SLURM_NODEID", "2"),
            ("SLURM_JOB_NODELIST", "n[1-4]"),
            ("SLURM_JOB_ID", "77"),
            ("SLURM_LOCALID", "0"),
        ];
        let found = Way::Found(Discovery::Slurm);
        assert_eq!(member(&Said::default(), &step), (2, Some(4), found.clone(), 0));
        assert_eq!(find(&Said::default(), &step).unwrap().job, "77");
        step.extend([
            ("LOCAL_RANK", "3"),
            ("RANK", "3"),
            ("WORLD_SIZE", "4"),
            ("MASTER_ADDR", "n1"),
            ("GROUP_RANK", "0"),
        ]);
        assert_eq!(member(&Said::default(), &step), (2, Some(4), found, 3));
        let error = find(&Said::default(), &[("SLURM_NODEID", "0"), ("SLURM_JOB_NODELIST", "n[1-")]).unwrap_err();
        assert!(error.contains("lacks a closing bracket"), "{error}");
    }

    #[test]
    fn mpi_counts_processes_that_fill_nodes() {
        let open = [
            ("OMPI_COMM_WORLD_RANK", "4"),
            ("OMPI_COMM_WORLD_SIZE", "8"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "0"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "4"),
        ];
        let error = find(&Said::default(), &open).unwrap_err();
        assert!(error.contains("node 1 (MPI) does not know where the other nodes are: pass --rendezvous"), "{error}");
        let said = Said { rendezvous: Some("host0".to_owned()), ..Said::default() };
        assert_eq!(member(&said, &open), (1, Some(2), Way::Meet("host0".to_owned()), 0));
        let intel = [
            ("PMI_RANK", "1"),
            ("PMI_SIZE", "2"),
            ("MPI_LOCALRANKID", "0"),
            ("MPI_LOCALNRANKS", "1"),
            ("MASTER_ADDR", "h"),
        ];
        assert_eq!(member(&Said::default(), &intel), (1, Some(2), Way::Meet("h".to_owned()), 0));
        let round_robin = [("PMI_RANK", "1"), ("PMI_SIZE", "4"), ("MPI_LOCALRANKID", "0"), ("MPI_LOCALNRANKS", "2")];
        assert!(find(&said, &round_robin).unwrap_err().contains("do not fill one node before the next"));
        let said = Said { node: Some(1), world: Some(2), ..said };
        assert_eq!(member(&said, &round_robin).0, 1);
    }

    #[test]
    fn a_pod_of_a_stateful_set_has_its_number_in_its_name() {
        let said = Said { service: Some("rudder.gnn.svc".to_owned()), ..Said::default() };
        let (node, nodes, way, _) = member(&said, &[("HOSTNAME", "trainer-set-12")]);
        assert_eq!((node, nodes), (12, None));
        assert_eq!(way, Way::Found("dns:trainer-set-{node}.rudder.gnn.svc".parse().unwrap()));
        let error = find(&said, &[("HOSTNAME", "laptop")]).unwrap_err();
        assert!(error.contains("`laptop` does not end in a number"), "{error}");
        let pattern = Said { service: Some("10.0.0.{node}".to_owned()), ..Said::default() };
        assert_eq!(member(&pattern, &[("HOSTNAME", "a-1")]).2, Way::Found("dns:10.0.0.{node}".parse().unwrap()));
    }

    #[test]
    fn what_is_said_wins_and_what_is_missing_is_named() {
        let said = Said { node: Some(1), nodes: Some("a,b:7500,c".to_owned()), ..Said::default() };
        let listed = Way::Listed(vec!["a".to_owned(), "b:7500".to_owned(), "c".to_owned()]);
        assert_eq!(member(&said, &[]), (1, Some(3), listed, 0));
        let said = Said { node: Some(0), nodes: Some("n[1-2]".to_owned()), ..Said::default() };
        assert_eq!(member(&said, &[]).2, Way::Listed(vec!["n1".to_owned(), "n2".to_owned()]));
        for (said, words) in [
            (Said { nodes: Some("a,b".to_owned()), ..Said::default() }, "--nodes needs the index of this node"),
            (
                Said { node: Some(2), nodes: Some("a,b".to_owned()), ..Said::default() },
                "node 2 is beyond the last of 2",
            ),
            (Said { node: Some(0), nodes: Some("a,,b".to_owned()), ..Said::default() }, "--nodes a,,b"),
            (Said { node: Some(0), ..Said::default() }, "node 0 (--node) does not know"),
            (Said { node: Some(0), nodes: Some("a,b".into()), world: Some(3), ..Said::default() }, "--world says 3"),
        ] {
            let error = find(&said, &[]).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let error = find(&Said::default(), &[("RANK", "x"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "h")]).unwrap_err();
        assert!(error.contains("RANK=x"), "{error}");
    }
}
