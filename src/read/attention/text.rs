//! The text of the kernels of an attention.

use super::tiles::{COMBINE, Tile};
use crate::{
    CacheConfig, Format,
    kernels::{Link, Shader, no_choice, no_count},
};

/// What tells one kernel from another, beside the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Variant {
    pub tile: Tile,
    /// Query heads of a KV head.
    pub group: u32,
    /// Positions are read in parts, which `combine` joins.
    pub split: bool,
    /// Rows of queries are those just written.
    pub written: bool,
    pub causal: bool,
    pub window: Option<(u32, u32)>,
    pub lag: u32,
    pub capped: bool,
    pub masked: bool,
    pub sink_logits: bool,
    /// Queries are packed; of so many sequences at most.
    pub packed: Option<u32>,
    pub queries: Format,
    pub output: Format,
}

impl Variant {
    fn choose(&self, choice: &str, name: &str) -> &'static str {
        let coded = |format: Format| match format {
            Format::F16 => "f16",
            Format::Bf16 => "bf16",
            _ => "bits",
        };
        match choice {
            "attend/parts" if self.split => "split",
            "attend/parts" => "whole",
            "attend/mask" if self.masked => "added",
            "attend/mask" => "none",
            "attend/share" if self.tile.subgroups => "subgroup",
            "attend/share" => "memory",
            "attend/place" if self.packed.is_some() => "packed",
            "attend/place" => "strided",
            "attend/sinks" if self.sink_logits => "added",
            "attend/sinks" => "none",
            "attend/queries" if self.tile.held => "held",
            "attend/queries" => "staged",
            "attend/see" if name == "whole" => "all",
            "attend/see" => "some",
            "format/decode" => coded(self.queries),
            "format/encode" => coded(self.output),
            choice => no_choice(choice, name),
        }
    }

    /// The value of an `override`.
    fn value(&self, name: &str) -> Option<u64> {
        let (window, sinks) = self.window.unwrap_or_default();
        let Tile { units, lanes, neighbours, .. } = self.tile;
        let steps = |side: usize| if neighbours { [units[side], 1] } else { [1, lanes] };
        Some(match name {
            "GROUP" => self.group.into(),
            "WRITTEN" => self.written.into(),
            "CAUSAL" => self.causal.into(),
            "WINDOWED" => self.window.is_some().into(),
            "WINDOW" => window.into(),
            "SINKS" => sinks.into(),
            "LAG" => self.lag.into(),
            "SEQUENCES" => self.packed?.into(),
            "CAPPED" => self.capped.into(),
            "MASKED" => self.masked.into(),
            "KEY_LANE_STEP" => steps(0)[0].into(),
            "KEY_UNIT_STEP" => steps(0)[1].into(),
            "VALUE_LANE_STEP" => steps(1)[0].into(),
            "VALUE_UNIT_STEP" => steps(1)[1].into(),
            "QUERY_LANES" => self.queries.lanes().into(),
            "OUTPUT_LANES" => self.output.lanes().into(),
            _ => return None,
        })
    }
}

/// Over the text that reads the layer, with the prefix `cache_`, of units of so many vectors.
pub(super) fn attend(read: &str, vectors: [u32; 2], variant: &Variant) -> Shader {
    let tile = variant.tile;
    let Tile { workgroup, lanes, rows, round, units: [key_units, value_units], .. } = tile;
    let (rounds, owners) = (tile.rounds(), tile.owners());
    let handing = round.next_power_of_two().ilog2();
    let count = |word: &str| match word {
        "ROWS" => rows,
        "ROUND" => round,
        "ROW_FOURS" => rows.div_ceil(4),
        "ROUNDS" => rounds,
        "OWNERS" => owners,
        "OWNED" => owners.saturating_mul(rounds),
        "LANES" => lanes,
        "KEY_UNITS" => key_units,
        "VALUE_UNITS" => value_units,
        "KEY_UNIT_VECTORS" => vectors[0],
        "VALUE_UNIT_VECTORS" => vectors[1],
        "VALUE_VECTORS" => value_units.saturating_mul(vectors[1]),
        // The steps by which threads of a subgroup share a round, and the rows that a thread hands on in each.
        "HANDING_STEPS" => handing,
        "ADDING_STEPS" => lanes.ilog2().saturating_sub(handing),
        number if number.starts_with("HANDED_") => {
            let step: u32 = number.trim_start_matches("HANDED_").parse().unwrap_or_else(|_| no_count(number));
            1u32 << handing.saturating_sub(step).saturating_sub(1)
        }
        number => number.parse().unwrap_or_else(|_| no_count(number)),
    };
    let prelude = |name: &str| match name {
        "" => {
            let words = ["ROWS", "ROUND", "OWNERS", "OWNED", "LANES", "KEY_UNITS", "VALUE_UNITS"];
            let sizes: String = words.into_iter().map(|word| format!("const {word} = {}u;\n", count(word))).collect();
            format!("const WORKGROUP = {workgroup}u;\nconst HANDING_STEPS = {handing}u;\n{sizes}{read}")
        }
        _ => String::new(),
    };
    let choose = |choice: &str, name: &str| variant.choose(choice, name);
    let text = Link { choose: &choose, prelude: &prelude, count: &count }.text("attend/attend.wgsl");
    Shader::new(text, |name| variant.value(name))
}

/// `starts` is the index of the first start behind the lengths.
pub(super) fn combine(config: &CacheConfig, starts: u32, variant: &Variant) -> Shader {
    let vectors = config.value_dim.div_ceil(4).checked_next_power_of_two().map_or(COMBINE, |all| all.min(COMBINE));
    let workgroup = |name: &str| match name {
        "" => format!(
            "const WORKGROUP = {COMBINE}u;\nconst VECTORS = {vectors}u;\nconst ROWS = {}u;\n",
            variant.tile.rows
        ),
        _ => String::new(),
    };
    let count = |word: &str| word.parse().unwrap_or_else(|_| no_count(word));
    let choose = |choice: &str, name: &str| variant.choose(choice, name);
    let text = Link { choose: &choose, prelude: &workgroup, count: &count }.text("attend/combine.wgsl");
    Shader::new(text, |name| {
        Some(match name {
            "STARTS" => starts.into(),
            "cache_heads" => config.num_heads.into(),
            "cache_value_dim" => config.value_dim.into(),
            "cache_value_vectors" => config.value_dim.div_ceil(4).into(),
            name => return variant.value(name),
        })
    })
}

#[cfg(test)]
#[path = "../../../tests/unit/attention.rs"]
mod tests;
