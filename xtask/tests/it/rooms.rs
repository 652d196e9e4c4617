//! Rooms, and who may import whom: ARCHITECTURE.md as tables that the sources are held against. What is compiled for
//! tests only is free.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::sources::{Module, read_crate, read_text};

/// The crates whose sources are read, with their roots.
const CRATES: [(&str, &str); 9] = [
    ("tocsin_engine", "engine/src/lib.rs"),
    ("tocsin_rules_sdk", "rules-sdk/src/lib.rs"),
    ("tocsin_base", "host/base/src/lib.rs"),
    ("tocsin_bus", "host/bus/src/lib.rs"),
    ("tocsin_health", "host/health/src/lib.rs"),
    ("tocsin_prices", "host/prices/src/lib.rs"),
    ("tocsin_store", "host/store/src/lib.rs"),
    ("tocsin", "host/src/lib.rs"),
    ("main", "host/src/main.rs"),
];

/// Names that are forbidden in some modules.
struct Rule {
    /// Where the rule holds: in these modules and all below them.
    within: &'static [&'static str],
    /// Where it does not, of those.
    except: &'static [&'static str],
    /// A name may not be one of these, nor lie below one.
    forbids: &'static [&'static str],
    because: &'static str,
}

/// All of Tocsin that is not a library for rule authors.
const EVERYWHERE: &[&str] =
    &["tocsin_engine", "tocsin_base", "tocsin_bus", "tocsin_health", "tocsin_prices", "tocsin_store", "tocsin", "main"];

const RULES: &[Rule] = &[
    Rule {
        within: &["tocsin_engine", "tocsin_rules_sdk"],
        except: &[],
        forbids: &["std::fs", "std::net", "std::process", "std::time::SystemTime"],
        because: "the engine does no IO and reads no clock: a replay must give the same bytes",
    },
    Rule {
        within: &["tocsin_engine", "tocsin_rules_sdk"],
        // It tells what evaluating costs, and decides nothing.
        except: &["tocsin_engine::usage"],
        forbids: &["std::time::Instant"],
        because: "nothing that the engine decides may depend on how long something took: a replay must give the same bytes",
    },
    Rule {
        within: &["tocsin_engine", "tocsin_rules_sdk"],
        // It is part of builds for tests only.
        except: &["tocsin_engine::failpoint"],
        forbids: &["std::env"],
        because: "who embeds the engine configures it, not the environment",
    },
    Rule {
        within: &["tocsin_engine::domain"],
        except: &[],
        forbids: &["serde", "serde_json", "wasmtime", "wasmparser", "wasm_encoder", "jsonschema"],
        because: "only domain types travel: each border converts to its own, once",
    },
    Rule {
        within: &["tocsin_engine"],
        except: &["tocsin_engine::runtime", "tocsin_engine::instance"],
        forbids: &["wasmtime"],
        because: "Wasmtime is behind `runtime` and `instance`",
    },
    Rule {
        within: &["tocsin", "main"],
        except: &[],
        forbids: &["wasmtime", "wasmparser", "wasm_encoder", "tocsin_rules_sdk"],
        because: "modules and their ABI are the engine's",
    },
    Rule { within: EVERYWHERE, except: &["tocsin_store"], forbids: &["sqlx"], because: "SQL is the store's" },
    Rule {
        within: EVERYWHERE,
        except: &["tocsin_bus", "tocsin_prices"],
        forbids: &["fjall"],
        because: "the embedded database is driven by the embedded bus and prices",
    },
    Rule { within: EVERYWHERE, except: &["tocsin_prices"], forbids: &["redis"], because: "Redis is the prices'" },
    Rule {
        within: EVERYWHERE,
        except: &["tocsin_bus", "tocsin::delivery"],
        forbids: &["rdkafka"],
        because: "Kafka is the bus's, and where `delivery` tells of firings",
    },
    Rule {
        within: EVERYWHERE,
        except: &["tocsin::ingest", "tocsin::replay_server"],
        forbids: &["tokio_tungstenite"],
        because: "WebSockets of exchanges are spoken by `ingest`, and by `replay_server`, which plays one",
    },
    Rule {
        within: EVERYWHERE,
        except: &["tocsin::api::rest"],
        forbids: &["axum", "tower_http", "utoipa_axum"],
        because: "REST is served by `api::rest`",
    },
    Rule {
        within: EVERYWHERE,
        except: &["tocsin::api::rest", "tocsin::wire"],
        forbids: &["utoipa"],
        because: "the description of REST is made of the bodies in `wire` and the routes in `api::rest`",
    },
    Rule {
        within: &["tocsin::wire"],
        except: &[],
        forbids: &["tocsin::api", "tocsin::cli", "tocsin::control", "tocsin::roles", "tocsin_store"],
        because: "bodies know nothing of who sends and reads them",
    },
    Rule {
        within: EVERYWHERE,
        except: &["tocsin::api"],
        forbids: &["hyper", "hyper_util", "tower"],
        because: "connections are served by `api`, for REST and gRPC alike",
    },
    Rule {
        within: &["tocsin::connections"],
        except: &[],
        forbids: &[
            "std::net",
            "tokio::net",
            "tokio::io",
            "tocsin::api",
            "tocsin_bus",
            "tocsin::cli",
            "tocsin::config",
            "tocsin::control",
            "tocsin::delivery",
            "tocsin::evaluator",
            "tocsin::ingest",
            "tocsin_prices",
            "tocsin::roles",
            "tocsin_store",
        ],
        because: "places of connections are given by count: nothing there knows their users, or reads a connection",
    },
    Rule {
        within: EVERYWHERE,
        except: &["tocsin::api::grpc"],
        forbids: &["tonic", "tonic_health", "tonic_reflection", "tonic_types", "prost_types"],
        because: "gRPC is served by `api::grpc`",
    },
    Rule {
        within: EVERYWHERE,
        except: &["tocsin::api::grpc", "tocsin_bus"],
        forbids: &["prost", "tocsin_proto"],
        because: "protobuf is what gRPC and the bus's log speak: nobody else knows its types",
    },
    Rule {
        within: EVERYWHERE,
        except: &["tocsin::cli"],
        forbids: &["reqwest"],
        because: "the command line is the only HTTP client",
    },
    Rule {
        within: EVERYWHERE,
        except: &["tocsin_bus", "tocsin_prices", "tocsin::roles"],
        forbids: &[
            "tocsin_bus::EmbeddedBus",
            "tocsin_bus::EmbeddedReader",
            "tocsin_bus::EmbeddedWaker",
            "tocsin_bus::EmbeddedDb",
            "tocsin_bus::embedded",
            "tocsin_prices::EmbeddedPrices",
            "tocsin_prices::embedded",
            "tocsin_prices::RedisPrices",
            "tocsin_prices::redis",
        ],
        because: "`roles` alone chooses a backend: the rest names the port",
    },
    Rule {
        within: EVERYWHERE,
        except: &["tocsin_store", "tocsin::roles"],
        forbids: &[
            "tocsin_store::Store::open_sqlite",
            "tocsin_store::Store::open_postgres",
            "tocsin_store::sqlite",
            "tocsin_store::postgres",
        ],
        because: "`roles` alone chooses a backend: the rest names the port",
    },
    Rule {
        within: &["tocsin_store", "tocsin_prices", "tocsin::ingest", "tocsin::replay_server", "tocsin::rules"],
        except: &[],
        forbids: &[
            "tocsin::api",
            "tocsin::cli",
            "tocsin::control",
            "tocsin::delivery",
            "tocsin::evaluator",
            "tocsin::roles",
        ],
        because: "ports and their members know nothing of who uses them",
    },
    Rule {
        within: &["tocsin::ingest"],
        except: &[],
        forbids: &["tocsin_store", "tocsin_prices"],
        because: "a port does not reach into another",
    },
    Rule {
        within: &["tocsin::evaluator"],
        except: &[],
        forbids: &["tocsin::api", "tocsin::cli", "tocsin::control", "tocsin::ingest", "tocsin::roles"],
        because: "the evaluator knows the engine and the ports that it uses",
    },
    Rule {
        within: &["tocsin::delivery"],
        except: &[],
        forbids: &[
            "tocsin::api",
            "tocsin::cli",
            "tocsin::control",
            "tocsin::evaluator",
            "tocsin::ingest",
            "tocsin_prices",
            "tocsin::roles",
        ],
        because: "delivery knows the store, a topic, and what `roles` tells it to say",
    },
    Rule {
        within: &["tocsin::control"],
        except: &[],
        forbids: &["tocsin::api", "tocsin::cli", "tocsin::evaluator", "tocsin::roles"],
        because: "use cases do not know who calls them",
    },
    Rule {
        within: &["tocsin::api"],
        except: &[],
        forbids: &[
            "tocsin_store::Store",
            "tocsin::rules",
            "tocsin::evaluator",
            "tocsin::ingest",
            "tocsin::config",
            "tocsin::roles",
            "tocsin::cli",
        ],
        because: "the API only translates: what it does, `control` does",
    },
    Rule {
        within: &["tocsin::cli"],
        except: &[],
        forbids: &[
            "tocsin::api",
            "tocsin_bus",
            "tocsin::control",
            "tocsin::evaluator",
            "tocsin_health",
            "tocsin::ingest",
            "tocsin::rules::RuleCache",
            "tocsin::rules::artifacts",
            "tocsin_prices",
            "tocsin::roles",
            "tocsin_store",
        ],
        because: "the command line speaks to a server over its public API, as any client can",
    },
    Rule {
        within: &["tocsin::cli"],
        // They work without a server: `rule check`, `rule pack`, `rule reproduce`, and the size that `rule upload` reads.
        except: &[
            "tocsin::cli::rule_check",
            "tocsin::cli::rule_pack",
            "tocsin::cli::rule_reproduce",
            "tocsin::cli::rule",
        ],
        forbids: &["tocsin_engine"],
        because: "the command line speaks to a server over its public API; what works without one needs the engine",
    },
];

/// Crates that a Cargo.toml may not name for what it builds: tests and benches are free.
struct Dependencies {
    package: &'static str,
    forbids: &'static [&'static str],
    because: &'static str,
}

/// Everything that waits, or speaks to something outside of the process.
const IO: &[&str] = &[
    "axum",
    "fjall",
    "futures-util",
    "hyper",
    "prost",
    "redis",
    "reqwest",
    "sqlx",
    "tocsin",
    "tocsin-proto",
    "tokio",
    "tokio-tungstenite",
    "tonic",
    "tower",
];

const DEPENDENCIES: &[Dependencies] = &[
    Dependencies {
        package: "tocsin-bus",
        forbids: &["tocsin", "sqlx", "redis", "axum", "tonic", "reqwest", "tokio-tungstenite"],
        because: "the bus knows the engine's domain and the log, and nothing of who uses it",
    },
    Dependencies {
        package: "tocsin-base",
        forbids: &["tocsin", "tocsin-bus", "tocsin-engine", "tocsin-health", "tocsin-store"],
        because: "what others share knows none of them",
    },
    Dependencies {
        package: "tocsin-prices",
        forbids: &["tocsin", "tocsin-store", "rdkafka", "sqlx", "axum", "tonic", "reqwest", "tokio-tungstenite"],
        because: "prices are kept from the bus, and know nothing of who asks for them",
    },
    Dependencies {
        package: "tocsin-store",
        forbids: &["tocsin", "rdkafka", "fjall", "redis", "axum", "tonic", "reqwest", "tokio-tungstenite"],
        because: "a port does not reach into another, and knows nothing of who uses it",
    },
    Dependencies {
        package: "tocsin-health",
        forbids: &["tocsin", "tocsin-bus", "tocsin-engine"],
        because: "the registry knows no component: each registers its own probe",
    },
    Dependencies {
        package: "tocsin-engine",
        forbids: IO,
        because: "the engine never awaits and never does IO; anyone can embed it",
    },
    Dependencies { package: "tocsin-rules-sdk", forbids: IO, because: "a rule has no imports" },
    Dependencies {
        package: "tocsin-rules-sdk",
        forbids: &["tocsin-engine", "serde", "serde_json"],
        because: "the SDK is what rules are made of: `no_std`, and small",
    },
    Dependencies {
        package: "tocsin-proto",
        forbids: &["tocsin-engine", "tocsin", "sqlx", "fjall", "axum"],
        because: "generated types know of nothing else",
    },
];

/// Every name that breaks a rule: where it is, what it is, and why not.
fn broken(rules: &[Rule], modules: &[Module]) -> Vec<String> {
    let mut broken = Vec::new();
    for module in modules {
        let is_in = |rooms: &[&str]| rooms.iter().any(|room| is_at_or_below(&module.path, room));
        for rule in rules.iter().filter(|rule| is_in(rule.within) && !is_in(rule.except)) {
            for name in &module.names {
                if let Some(forbidden) = rule.forbids.iter().find(|forbidden| names(&name.path, forbidden)) {
                    let (module, line) = (&module.path, name.line);
                    broken.push(format!("{module}, line {line}, names {forbidden}: {}", rule.because));
                }
            }
        }
    }
    broken.dedup();
    broken
}

/// Whether a path names something or what is below it; a glob names all that is below its place.
fn names(path: &str, forbidden: &str) -> bool {
    match path.strip_suffix("::*") {
        Some(place) => is_at_or_below(place, forbidden) || is_at_or_below(forbidden, place),
        None => is_at_or_below(path, forbidden),
    }
}

fn is_at_or_below(path: &str, room: &str) -> bool {
    path.strip_prefix(room).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the repository")
}

#[test]
fn no_room_imports_what_it_must_not() {
    let modules: Vec<Module> =
        CRATES.iter().flat_map(|(name, root)| read_crate(name, &repository().join(root))).collect();
    // A room that was renamed would be guarded no more.
    for room in RULES.iter().flat_map(|rule| [rule.within, rule.except].concat()) {
        assert!(modules.iter().any(|module| module.path == room), "a rule is about {room}, which is not there");
    }
    let broken = broken(RULES, &modules);
    assert!(broken.is_empty(), "see ARCHITECTURE.md, Code map:\n{}", broken.join("\n"));
}

#[test]
fn no_manifest_names_what_it_must_not() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut metadata = Command::new(cargo);
    metadata.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]).current_dir(repository());
    let metadata: Value = serde_json::from_slice(&metadata.output().unwrap().stdout).unwrap();
    for Dependencies { package, forbids, because } in DEPENDENCIES {
        let package = metadata["packages"].as_array().unwrap().iter().find(|found| found["name"] == *package);
        for dependency in package.expect("the package is there")["dependencies"].as_array().unwrap() {
            let name = dependency["name"].as_str().unwrap();
            let is_for_tests = dependency["kind"] == "dev";
            assert!(is_for_tests || !forbids.contains(&name), "{}: {name}: {because}", package.unwrap()["name"]);
        }
    }
}

#[test]
fn a_forbidden_import_is_found_in_any_form() {
    let check = |module: &str, text: &str, expect: usize| {
        let path: Vec<String> = module.split("::").map(str::to_owned).collect();
        let module = Module { path: module.into(), names: read_text(&path, text).0 };
        let broken = broken(RULES, &[module]);
        assert_eq!(broken.len(), expect, "{text}: {broken:?}");
    };
    check("tocsin::api::rest", "use axum::Json;\nuse tocsin_bus::Bus;", 0);
    check("tocsin::api::rest", "use axum::Json;\nuse tocsin_store::Store;", 1);
    check("tocsin::control", "use axum::Json;", 1);
    check("tocsin::control", "use axum_extra::Json;", 0);
    check("tocsin::api::grpc", "fn f(_: sqlx::Error) {}", 1);
    check("tocsin::lease", "use tocsin_bus as bus; fn f() { bus::EmbeddedBus::open() }", 1);
    check("tocsin::lease", "use tocsin_bus::*;", 1);
    check("tocsin::roles", "use tocsin_bus::{Bus, EmbeddedBus};", 0);
    check("tocsin::rules", "use crate::{\n  control::Control,\n  telemetry,\n};", 1);
    check("tocsin::cli::alert", "use tocsin_engine::domain::Alert;", 1);
    check("tocsin::cli::rule_check", "use tocsin_engine::inspect::inspect;", 0);
    check("tocsin_engine::domain::tick", "#[derive(serde::Serialize)] struct T;", 1);
    check("tocsin_engine::shard", "fn f() { std::fs::read(\"x\"); }", 1);
    check("main", "fn f() { tocsin_store::Store::open_sqlite() }", 1);
}
