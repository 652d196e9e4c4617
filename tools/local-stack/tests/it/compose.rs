//! docker-compose.yml, parsed by Compose itself, which needs no engine for it.

use std::path::Path;
use std::process::{Command, Output};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap()
}

/// Returns the output of `docker compose config`, by Docker's plugin or by `docker-compose`.
fn config(profile: Option<&str>) -> String {
    let plugin = Command::new("docker").args(["compose", "version"]).output();
    let mut compose = if plugin.is_ok_and(|output: Output| output.status.success()) {
        let mut docker = Command::new("docker");
        docker.arg("compose");
        docker
    } else {
        Command::new("docker-compose")
    };
    compose.current_dir(repository()).args(profile.iter().flat_map(|profile| ["--profile", profile])).arg("config");
    let output = compose.output().expect("there is no Compose; on Debian: apt-get install docker-compose");
    assert!(output.status.success(), "{profile:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_profile_is_valid() {
    for (profile, service) in
        [(None, "postgres"), (Some("single"), "tocsin"), (Some("scaled"), "evaluate-2"), (Some("cluster"), "kafka-3")]
    {
        let config = config(profile);
        assert!(config.contains(&format!("\n  {service}:\n")), "{profile:?} has no {service}:\n{config}");
        for unset in ["127.0.0.1::", "STACK_", "- null"] {
            assert!(!config.contains(unset), "{profile:?} has {unset:?}:\n{config}");
        }
    }
}

#[test]
fn services_listen_on_loopback_only() {
    let text = std::fs::read_to_string(repository().join("docker-compose.yml")).unwrap();
    let sections = text.split("    ports:\n").skip(1);
    let published: Vec<&str> = sections.flat_map(|rest| rest.lines().take_while(|line| line.contains("- "))).collect();
    assert_eq!(published.len(), 5, "{published:?}");
    for port in published {
        assert!(port.trim().starts_with("- \"127.0.0.1:"), "{port}");
    }
}
