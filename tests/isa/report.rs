//! Reads what RADV prints of a pipeline: the machine code and its statistics.

use std::collections::HashMap;

/// A kernel as the driver compiled it.
pub struct Compiled {
    pub name: String,
    statistics: HashMap<String, u64>,
    /// Instructions of the innermost loop that has the most of them and loads from memory; of a kernel without such a
    /// loop, all.
    body: Vec<String>,
}

/// Everything in the output of a run.
pub fn compiled(text: &str) -> Vec<Compiled> {
    let mut all = Vec::new();
    for part in text.split("\n@@ ").skip(1) {
        let (name, rest) = part.split_once('\n').unwrap_or((part, ""));
        for (index, block) in rest.split("Compute Shader\ndisasm:").skip(1).enumerate() {
            let (code, statistics) = block.split_once("*** SHADER STATS ***").unwrap_or((block, ""));
            let number = |line: &str| {
                let (name, value) = line.split_once(": ")?;
                Some((name.to_owned(), value.split_whitespace().next()?.parse().ok()?))
            };
            let statistics: HashMap<String, u64> = statistics.lines().filter_map(number).collect();
            let shares = statistics.get("LDS size").is_some_and(|bytes| *bytes > 0);
            // After it come combine, if positions are split, and the driver's own kernels.
            let name = match (index, name.strip_prefix("attend ")) {
                (0, _) => name.to_owned(),
                (1, Some(rest)) if shares => format!("combine {rest}"),
                _ => continue,
            };
            all.push(Compiled { name, statistics, body: body(code) });
        }
    }
    all
}

fn body(code: &str) -> Vec<String> {
    let mut blocks: Vec<(String, Vec<String>)> = Vec::new();
    for line in code.lines() {
        let line = line.split(';').next().unwrap_or(line);
        match (line.strip_suffix(':'), line.strip_prefix('\t')) {
            (Some(label), _) if label.starts_with("BB") => blocks.push((label.to_owned(), Vec::new())),
            (_, Some(instruction)) => {
                if let Some((_, instructions)) = blocks.last_mut() {
                    instructions.push(instruction.trim().to_owned());
                }
            }
            _ => {}
        }
    }
    // A branch to an earlier block, or its own, closes a loop.
    let at: HashMap<&str, usize> =
        blocks.iter().enumerate().map(|(index, (label, _))| (label.as_str(), index)).collect();
    let mut loops = Vec::new();
    for (end, (_, instructions)) in blocks.iter().enumerate() {
        for target in instructions.iter().filter(|i| i.contains("branch")).filter_map(|i| i.split_whitespace().nth(1)) {
            if let Some(&start) = at.get(target).filter(|start| **start <= end) {
                loops.push((start, end));
            }
        }
    }
    let all = |start: usize, end: usize| -> Vec<String> {
        blocks[start..=end].iter().flat_map(|(_, instructions)| instructions.clone()).collect()
    };
    let innermost = loops.iter().filter(|(start, end)| {
        !loops.iter().any(|other| other != &(*start, *end) && other.0 >= *start && other.1 <= *end)
    });
    // Of the two loops over chunks, that over whole chunks has fewer branches for as many multiply-adds.
    innermost
        .map(|&(start, end)| all(start, end))
        .filter(|body| body.iter().any(|i| is_load(i)))
        .max_by_key(|body| {
            let count = |test: fn(&str) -> bool| body.iter().filter(|i| test(i)).count();
            (count(is_multiply_add), usize::MAX - body.len())
        })
        .unwrap_or_else(|| all(0, blocks.len().saturating_sub(1)))
}

fn is_load(instruction: &str) -> bool {
    ["buffer_load", "global_load"].iter().any(|load| instruction.starts_with(load))
}

fn is_multiply_add(instruction: &str) -> bool {
    ["v_fma", "v_mad_f", "v_mac_f", "v_pk_fma", "v_dot"].iter().any(|one| instruction.starts_with(one))
}

impl Compiled {
    /// A statistic by RADV's name for it.
    pub fn number(&self, what: &str) -> u64 {
        *self.statistics.get(what).unwrap_or_else(|| panic!("{} has no {what:?}: {:?}", self.name, self.statistics))
    }

    /// Loads of 16 bytes that are issued before a wait for one of them, for each such run of loads in the body.
    pub fn in_flight(&self) -> Vec<usize> {
        let mut runs = Vec::new();
        let mut issued = 0;
        for instruction in &self.body {
            if is_load(instruction) && instruction.contains("dwordx4") {
                issued += 1;
            } else if instruction.starts_with("s_waitcnt") && instruction.contains("vmcnt") && issued > 0 {
                runs.push(issued);
                issued = 0;
            }
        }
        runs
    }

    fn count(&self, test: impl Fn(&str) -> bool) -> usize {
        self.body.iter().filter(|instruction| test(instruction)).count()
    }
}

/// Prints a table in Markdown.
pub fn print(all: &[Compiled]) {
    println!(
        "| kernel | VGPRs | SGPRs | workgroup bytes | spills, scratch | waves | VALU | SALU | VMEM | loop: multiply-adds | \
         of VALU | loads of 16 bytes before a wait |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for kernel in all {
        let number = |what| kernel.number(what);
        let spills = number("Spilled VGPRs") + number("Spilled SGPRs") + number("Scratch size");
        let valu = kernel.count(|i| i.starts_with("v_"));
        let flight: Vec<_> = kernel.in_flight().iter().map(ToString::to_string).collect();
        println!(
            "| {} | {} | {} | {} | {spills} | {} | {} | {} | {} | {} | {valu} | {} |",
            kernel.name,
            number("VGPRs"),
            number("SGPRs"),
            number("LDS size"),
            number("Subgroups per SIMD"),
            number("VALU"),
            number("SALU"),
            number("VMEM"),
            kernel.count(is_multiply_add),
            if flight.is_empty() { "–".to_owned() } else { flight.join(" + ") },
        );
    }
}
