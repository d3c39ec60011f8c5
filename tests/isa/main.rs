//! What the kernels become on an AMD GPU, without one: registers, spills, workgroup memory and instructions, as Mesa's
//! RADV reports them. `scripts/isa/setup` sets up the driver, which compiles and executes nothing; without it every
//! test here is ignored. `make isa` prints the table.
//!
//! The tests run this program again under the driver (`KV_CACHE_ISA_CHILD`), where it creates pipelines and prints
//! `@@ name` before each, and read what the driver printed between the names.

mod kernels;
mod report;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use libtest_mimic::{Arguments, Completion, Trial};

use self::report::{Compiled, compiled};

/// Workgroup memory that every device has, in bytes.
const WORKGROUP_BYTES: u64 = 16_384;

fn main() -> ExitCode {
    if std::env::var_os("KV_CACHE_ISA_CHILD").is_some() {
        kernels::create();
        return ExitCode::SUCCESS;
    }
    let all = driver().and_then(|driver| compile(&driver));
    if std::env::var_os("KV_CACHE_ISA_TABLE").is_some() {
        return match all {
            Ok(all) => {
                report::print(&all);
                ExitCode::SUCCESS
            }
            Err(missing) => {
                eprintln!("{missing}");
                ExitCode::FAILURE
            }
        };
    }
    let trials = match all {
        Err(missing) => vec![Trial::ignorable_test("isa", move || Ok(Completion::ignored_with(missing)))],
        Ok(all) => all.into_iter().map(trial).collect(),
    };
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// The folder that `scripts/isa/setup` filled.
fn driver() -> Result<PathBuf, String> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/isa");
    let folder = std::env::var_os("KV_CACHE_ISA").map_or_else(default, PathBuf::from);
    if folder.join("libnullsync.so").exists() {
        Ok(folder)
    } else {
        Err(format!("there is no driver in {}: run scripts/isa/setup target/isa, on Debian 12", folder.display()))
    }
}

/// All kernels as the driver compiles them.
fn compile(driver: &Path) -> Result<Vec<Compiled>, String> {
    let mesa = driver.join("mesa/usr/lib/x86_64-linux-gnu");
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(program)
        .env("KV_CACHE_ISA_CHILD", "1")
        .env("WGPU_BACKEND", "vulkan")
        .env("RADV_DEBUG", "shaderstats,asm,nocache")
        .env("RADV_FORCE_FAMILY", std::env::var("RADV_FORCE_FAMILY").unwrap_or_else(|_| "navi21".to_owned()))
        .env("VK_ICD_FILENAMES", driver.join("nullsync.json"))
        .env("VK_DRIVER_FILES", driver.join("nullsync.json"))
        .env("NULLSYNC_DRIVER", mesa.join("libvulkan_radeon.so"))
        .env("LD_LIBRARY_PATH", &mesa)
        .env("XDG_RUNTIME_DIR", driver.join("run"))
        .output()
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stderr);
    let all = compiled(&text);
    if all.is_empty() {
        let end: String = text.lines().rev().take(5).collect::<Vec<_>>().join("; ");
        return Err(format!("the driver compiled nothing: {end}"));
    }
    // The driver executes nothing, so the child may end as it likes once the last kernel is compiled.
    assert!(text.contains("\n@@ end"), "the child stopped before the last kernel: {}", output.status);
    Ok(all)
}

fn trial(kernel: Compiled) -> Trial {
    Trial::test(kernel.name.clone(), move || {
        let number = |what: &str| kernel.number(what);
        assert_eq!((number("Spilled VGPRs"), number("Spilled SGPRs"), number("Scratch size")), (0, 0, 0));
        assert!(number("LDS size") <= WORKGROUP_BYTES, "{} bytes of workgroup memory", number("LDS size"));
        if kernel.name.starts_with("attend") {
            let least = kernel.in_flight().into_iter().min().unwrap_or(0);
            assert!(least >= 4, "loads in flight in the loop over chunks: {:?}", kernel.in_flight());
        }
        Ok(())
    })
}
