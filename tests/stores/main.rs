//! Stores of pages, with real servers that `scripts/with-servers` sets up. Where a server or a feature is missing, its
//! tests are ignored, with the reason.

mod conformance;
#[cfg(feature = "object-store")]
mod object_store;
mod proxy;
#[cfg(feature = "redis")]
mod redis;
mod servers;
#[cfg(feature = "cli")]
mod share;
mod urls;

use std::{process::ExitCode, sync::Arc};

use libtest_mimic::{Arguments, Completion, Trial};
use wgpu_kv_cache::store::{FolderStore, MemoryStore, Store};

/// A test, and what it needs: a server, or a feature of this crate.
struct Test {
    name: &'static str,
    needs: &'static [&'static str],
    run: fn(),
}

/// Tests of these functions, which need these servers.
macro_rules! tests {
    ($needs:expr, $module:ident: $($name:ident),* $(,)?) => {
        vec![$($crate::Test {
            name: concat!(stringify!($module), "::", stringify!($name)), needs: $needs, run: $module::$name,
        }),*]
    };
}

fn memory_conforms() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(1 << 30).unwrap());
    conformance::conforms(&|| Arc::clone(&store));
}

fn folder_conforms() {
    let folder = tempfile::tempdir().unwrap();
    conformance::conforms(&|| Arc::new(FolderStore::open(folder.path(), 1 << 30).unwrap()));
}

fn main() -> ExitCode {
    let mut tests = vec![
        Test { name: "memory::conforms", needs: &[], run: memory_conforms },
        Test { name: "folder::conforms", needs: &[], run: folder_conforms },
    ];
    tests.extend(urls::tests());
    #[cfg(feature = "redis")]
    tests.extend(redis::tests());
    #[cfg(feature = "object-store")]
    tests.extend(object_store::tests());
    #[cfg(feature = "cli")]
    tests.extend(share::tests());
    let mut trials: Vec<Trial> = tests.into_iter().map(trial).collect();
    for (feature, compiled) in [("redis", cfg!(feature = "redis")), ("object-store", cfg!(feature = "object-store"))] {
        if !compiled {
            let reason = format!("the feature {feature} is not compiled in");
            trials.push(Trial::ignorable_test(feature, move || Ok(Completion::ignored_with(reason))));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trial(Test { name, needs, run }: Test) -> Trial {
    Trial::ignorable_test(name, move || {
        for server in needs {
            if let Err(missing) = servers::program(server) {
                return Ok(Completion::ignored_with(missing));
            }
        }
        run();
        Ok(Completion::Completed)
    })
}

use tests;
