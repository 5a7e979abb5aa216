//! Who trains with whom: what the environment says, what the launcher makes, and machines that do not see the same folders.

#![allow(clippy::expect_used, reason = "a test may panic")]

mod common;

use std::process::{Command, Stdio};

use common::{Workspace, assert_close, free_port, kill, ranks, train};

#[test]
fn processes_that_do_not_know_of_each_other_are_refused() {
    let workspace = Workspace::new(4);
    let refused = |more: &[&str], variables: &[(&str, &str)], parts: &[&str]| {
        let output =
            workspace.command(&train("a", more)).envs(variables.iter().copied()).output().expect("the program");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.lines().count() == 1, "{variables:?}: {said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    };
    for rank in ["0", "1"] {
        let srun = [("SLURM_NTASKS", "2"), ("SLURM_PROCID", rank), ("SLURM_LOCALID", rank)];
        refused(&[], &srun, &["error: MASTER_ADDR=: is needed", "SLURM_NTASKS=2"]);
        let mpirun = [("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_RANK", rank)];
        refused(&[], &mpirun, &["error: OMPI_COMM_WORLD_SIZE=2: "]);
        refused(&[], &[("PMI_SIZE", "2"), ("PMI_RANK", rank)], &["error: PMI_SIZE=2: "]);
        refused(&["--nproc", "2"], &srun, &["error: SLURM_NTASKS=2: ", "leave out --nproc"]);
    }
    let torchrun = [("WORLD_SIZE", "2"), ("RANK", "0"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")];
    refused(&["--nproc", "2"], &torchrun, &["error: WORLD_SIZE=2: ", "leave out --nproc"]);
    refused(&["--nproc", "2", "--device", "cuda:3"], &[], &["--device cuda:3"]);
    assert!(!workspace.path("runs").exists());
    // A shell of an allocation is one process.
    let mut alone = workspace.command(&train("a", &[]));
    assert!(alone.env("SLURM_NTASKS", "4").output().expect("the program").status.success());
}

#[test]
fn the_network_interface_is_the_one_that_is_named() {
    let workspace = Workspace::new(8);
    let run = |name: &str, interface: &str| {
        let mut command = workspace.command(&train(name, &["--nproc", "2", "--set", "train.steps=2"]));
        let output = command.env("GLOO_SOCKET_IFNAME", interface).output().expect("the program");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (status, said) = run("lo", "lo");
    assert_eq!(status, Some(0), "{said}");
    let (status, said) = run("none", "eth99");
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("GLOO_SOCKET_IFNAME=eth99: there is no network interface \"eth99\""), "{said}");
}

/// Local addresses at which `process` listens, as the kernel writes them.
fn listens(process: u32) -> Vec<String> {
    let sockets: Vec<String> = std::fs::read_dir(format!("/proc/{process}/fd"))
        .expect("its files")
        .flatten()
        .filter_map(|entry| Some(std::fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned()))
        .collect();
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        for line in std::fs::read_to_string(format!("/proc/{process}/net/{table}")).unwrap_or_default().lines().skip(1)
        {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields[3] == "0A" && sockets.contains(&format!("socket:[{}]", fields[9])) {
                found.push(fields[1].split(':').next().unwrap_or_default().to_owned());
            }
        }
    }
    found
}

#[test]
fn one_machine_is_not_reachable_from_others() {
    let workspace = Workspace::new(8);
    let endless = ["--nproc", "2", "--set", "train.steps=100000", "--set", "train.eval_every=100000"];
    let mut launcher = workspace.start(workspace.command(&train("a", &endless)), "a", 2);
    let mut processes = ranks(&launcher);
    processes.push(launcher.id());
    let addresses: Vec<String> = processes.into_iter().flat_map(listens).collect();
    assert!(!addresses.is_empty() && addresses.iter().all(|address| address == "0100007F"), "{addresses:?}");
    kill("TERM", i64::from(launcher.id()));
    launcher.wait().expect("an end");
}

/// Machine 1 has the data elsewhere and has never seen the run: rank 0's configuration, state, weights and moments count.
#[test]
fn a_run_goes_on_over_machines_that_share_no_folder() {
    let (first, second) = (Workspace::new(8), Workspace::new(8));
    first.ok(&train("straight", &["--nproc", "2"]));
    first.ok(&train("a", &["--nproc", "2", "--set", "train.keep=9"]));
    std::fs::remove_dir_all(first.path("runs/a/checkpoints/step-000012")).expect("removed");
    let meeting = format!("127.0.0.1:{}", free_port());
    let data = format!("data.path={}", second.path("data/manifest.jsonl").display());
    let node = |workspace: &Workspace, rank: &str, more: &[&str]| -> Command {
        let nodes = ["--nnodes", "2", "--node-rank", rank, "--rdzv", &meeting];
        let mut command = workspace.command(&[&["train", "--resume", "runs/a"], &nodes[..], more].concat());
        command.stderr(Stdio::piped()).stdout(Stdio::null());
        command
    };
    let nodes =
        [node(&first, "0", &[]), node(&second, "1", &["--set", &data])].map(|mut node| node.spawn().expect("a node"));
    for node in nodes {
        let output = node.wait_with_output().expect("an end");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(!second.path("runs").exists());
    assert_close(&first.figures("a", "loss"), &first.figures("straight", "loss"), "two machines");
}

/// The same with a configuration file each: where the data lies is not what is trained, the learning rate is.
#[test]
fn machines_agree_on_what_is_trained_not_on_where_it_lies() {
    let (first, second) = (Workspace::new(8), Workspace::new(8));
    for (rate, agrees) in [("optim.lr=0.01", true), ("optim.lr=0.02", false)] {
        let meeting = format!("127.0.0.1:{}", free_port());
        let name = rate.replace('=', "-");
        let node = |workspace: &Workspace, rank: &str, more: &[&str]| {
            let nodes = ["--nnodes", "2", "--node-rank", rank, "--rdzv", &meeting, "--set", "train.steps=2"];
            let mut command = workspace.command(&train(&name, &[&nodes[..], more].concat()));
            command.stderr(Stdio::piped()).spawn().expect("a node")
        };
        let nodes = [node(&first, "0", &[]), node(&second, "1", &["--set", rate, "--set", "data.workers=1"])];
        let [one, two] = nodes.map(|node| node.wait_with_output().expect("an end"));
        let said = String::from_utf8_lossy(&two.stderr);
        assert_eq!((one.status.success(), two.status.success()), (agrees, agrees), "{said}");
        assert!(agrees || said.contains("another configuration than rank 0"), "{said}");
    }
}
