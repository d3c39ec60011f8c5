//! The original design of this crate: numpy arrays and slice assignment, in a separate Python process.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use crate::{Case, Peer, Result, Rows};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/numpy_cache.py");

struct Numpy {
    python: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

pub fn prepare(case: &Case, rows: &Rows) -> Result<Box<dyn Peer>> {
    let program = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let sizes = [case.batch, case.heads, case.dim, case.capacity, case.tokens, case.position];
    let mut python = Command::new(&program)
        .arg(SCRIPT)
        .args(sizes.map(|size| size.to_string()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{program}: {error}"))?;
    let mut to = python.stdin.take().ok_or("no way in")?;
    let from = BufReader::new(python.stdout.take().ok_or("no way out")?);
    to.write_all(bytemuck::cast_slice(&rows.keys))?;
    to.write_all(bytemuck::cast_slice(&rows.values))?;
    to.flush()?;
    Ok(Box::new(Numpy { python, to, from }))
}

impl Numpy {
    fn ask(&mut self, what: &str) -> Result<String> {
        writeln!(self.to, "{what}")?;
        self.to.flush()?;
        let mut answer = String::new();
        self.from.read_line(&mut answer)?;
        Ok(answer.trim().to_owned())
    }
}

impl Peer for Numpy {
    fn update(&mut self) -> Result<Duration> {
        Ok(Duration::from_nanos(self.ask("update")?.parse()?))
    }

    fn holds(&mut self, _rows: &Rows) -> Result<bool> {
        Ok(self.ask("holds")? == "True")
    }
}

impl Drop for Numpy {
    fn drop(&mut self) {
        // The process ends when its input closes. If it does not, it is no longer needed anyway.
        let _ = self.python.kill();
        let _ = self.python.wait();
    }
}
