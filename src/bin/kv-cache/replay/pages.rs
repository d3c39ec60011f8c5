//! Programs of paged caches: their JSON format, and how they run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wgpu_kv_cache::{
    Context, PagedConfig, Pair,
    attention::{Extras, MaskRows, Options},
    pages::{PagedSequences, RETURNED, SequenceId},
    program::paged::{PagedOperation, PagedOutcome, PagedRefusal, PagedRun, TokenRows},
};

use super::{
    Stop,
    form::{Floats, Given, Rows, yes},
    within,
};

/// An operation; the field `op` names its kind.
#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Operation {
    Match {
        tokens: Vec<u32>,
        namespace: Option<String>,
    },
    Add {
        sequence: String,
        #[serde(default)]
        tokens: Vec<u32>,
        namespace: Option<String>,
        /// Rows of all of the tokens, `[layer, token, head, dim]`; those of the formula without them.
        keys: Option<Floats>,
        values: Option<Floats>,
    },
    Append {
        sequence: String,
        tokens: Vec<u32>,
        keys: Option<Floats>,
        values: Option<Floats>,
        /// That of the sequence.
        #[serde(rename = "namespace")]
        _namespace: Option<String>,
    },
    Draft {
        sequence: String,
        tokens: Vec<u32>,
        accepted: u32,
        keys: Option<Floats>,
        values: Option<Floats>,
    },
    Keep {
        sequence: String,
        last: u32,
        indices: Vec<u32>,
    },
    Fork {
        from: String,
        to: String,
        length: Option<u32>,
    },
    Truncate {
        sequence: String,
        length: u32,
    },
    Free {
        sequence: String,
    },
    ClearPrefixes {},
    Rows {
        sequence: String,
        #[serde(default)]
        layer: usize,
    },
    Attention {
        sequences: Vec<String>,
        #[serde(default)]
        layer: usize,
        heads: u32,
        tokens: u32,
        queries: Floats,
        #[serde(default = "yes")]
        causal: bool,
        scale: Option<f32>,
        /// 0 means no cap.
        softcap: Option<f32>,
        mask: Option<Floats>,
        mask_shape: Option<[u32; 4]>,
        window: Option<u32>,
        #[serde(default)]
        sinks: u32,
        #[serde(default)]
        lag: u32,
        sink_logits: Option<Floats>,
    },
}

/// The pages of a sequence, null where one went back: those of its group, or of each group.
#[derive(Serialize)]
#[serde(untagged)]
enum Pages {
    One(Vec<Option<u32>>),
    Groups(Vec<Vec<Option<u32>>>),
}

impl Pages {
    fn of(books: &PagedSequences, id: SequenceId) -> Self {
        let there = |pages: &[u32]| pages.iter().map(|&page| (page != RETURNED).then_some(page)).collect();
        let groups = 0..books.config().groups.len();
        let mut groups: Vec<Vec<_>> =
            groups.map(|group| books.pages(id, group).map(there).unwrap_or_default()).collect();
        if groups.len() == 1 { Pages::One(groups.remove(0)) } else { Pages::Groups(groups) }
    }
}

/// The result of an operation.
#[derive(Serialize)]
pub struct Outcome {
    pub ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cached: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    evicted: Vec<u32>,
    free_pages: u32,
    cached_pages: u32,
    pages: BTreeMap<String, Pages>,
    lengths: BTreeMap<String, u32>,
    #[serde(flatten)]
    given: Option<Given>,
}

/// Runs all operations. What ends them early comes with the index of the operation.
pub fn run(context: &Context, config: &PagedConfig, operations: &[Operation]) -> Result<Vec<Outcome>, (usize, Stop)> {
    let run = PagedRun::new(context, config, TokenRows::Formula);
    let mut run = run.map_err(|error| (0, Stop::Device(error)))?;
    let mut outcomes = Vec::with_capacity(operations.len());
    for (index, operation) in operations.iter().enumerate() {
        let outcome = operation.run(&mut run).map_err(|difference| (index, Stop::Differs(difference)))?;
        outcomes.push(outcome);
    }
    let last = operations.len().saturating_sub(1);
    run.compare_rows().map_err(|difference| (last, Stop::Differs(difference.to_string())))?;
    Ok(outcomes)
}

/// Rows that are given. One side alone is refused, because it does not agree with the tokens.
fn rows(keys: Option<&Floats>, values: Option<&Floats>) -> Option<Pair<Vec<f32>>> {
    let of = |floats: Option<&Floats>| floats.map_or_else(Vec::new, |Floats(numbers)| numbers.clone());
    (keys.is_some() || values.is_some()).then(|| Pair { keys: of(keys), values: of(values) })
}

impl Operation {
    fn run(&self, run: &mut PagedRun) -> Result<Outcome, String> {
        let (named, given) = match self {
            Operation::Attention { .. } => self.attend(run)?,
            other => {
                let outcome = run.step(&other.operation()).map_err(|kind| kind.to_string())?;
                let rows = outcome.rows.as_ref().map(|(pair, positions)| Rows::copied(pair, vec![positions.clone()]));
                let given = rows.map(Given::Rows);
                (outcome, given)
            }
        };
        let books = run.cache().sequences();
        let known = || run.sequences().iter().map(|(name, &id)| (name.clone(), id));
        let finds = matches!(self, Operation::Match { .. } | Operation::Add { .. });
        let keys = named.keys.iter().map(ToString::to_string).collect();
        Ok(Outcome {
            ok: named.refused.is_none(),
            kind: named.refused.as_ref().map(PagedRefusal::kind),
            error: named.refused.as_ref().map(ToString::to_string),
            cached: named.cached,
            keys: (finds && named.refused.is_none()).then_some(keys),
            evicted: named.evicted,
            free_pages: books.free_pages(),
            cached_pages: books.cached_pages(),
            lengths: known().map(|(name, id)| (name, books.length(id).unwrap_or(0))).collect(),
            pages: known().map(|(name, id)| (name, Pages::of(books, id))).collect(),
            given,
        })
    }

    fn operation(&self) -> PagedOperation {
        match self {
            Operation::Match { tokens, namespace } => {
                PagedOperation::Match { tokens: tokens.clone(), namespace: namespace.clone() }
            }
            Operation::Add { sequence, tokens, namespace, keys, values } => {
                let (sequence, tokens, namespace) = (sequence.clone(), tokens.clone(), namespace.clone());
                PagedOperation::Add { sequence, tokens, namespace, rows: rows(keys.as_ref(), values.as_ref()) }
            }
            Operation::Append { sequence, tokens, keys, values, .. } => {
                let appends = vec![(sequence.clone(), tokens.clone())];
                PagedOperation::Step { appends, dropped: false, rows: rows(keys.as_ref(), values.as_ref()) }
            }
            Operation::Draft { sequence, tokens, accepted, keys, values } => {
                let (sequence, tokens, accepted) = (sequence.clone(), tokens.clone(), *accepted);
                PagedOperation::Draft { sequence, tokens, accepted, rows: rows(keys.as_ref(), values.as_ref()) }
            }
            Operation::Keep { sequence, last, indices } => {
                PagedOperation::Keep { sequence: sequence.clone(), last: *last, indices: indices.clone() }
            }
            Operation::Fork { from, to, length } => {
                PagedOperation::Fork { from: from.clone(), to: to.clone(), length: *length }
            }
            Operation::Truncate { sequence, length } => {
                PagedOperation::Truncate { sequence: sequence.clone(), length: *length }
            }
            Operation::Free { sequence } => PagedOperation::Free { sequence: sequence.clone() },
            Operation::ClearPrefixes {} => PagedOperation::ClearPrefixes,
            Operation::Rows { sequence, layer } => PagedOperation::Rows { sequence: sequence.clone(), layer: *layer },
            Operation::Attention { .. } => unreachable!("attention is no operation of a program"),
        }
    }

    fn attend(&self, run: &mut PagedRun) -> Result<(PagedOutcome, Option<Given>), String> {
        let Operation::Attention {
            sequences,
            layer,
            heads,
            tokens,
            queries: Floats(queries),
            causal,
            scale,
            softcap,
            mask,
            mask_shape,
            window,
            sinks,
            lag,
            sink_logits,
        } = self
        else {
            unreachable!("it is attention")
        };
        let rows = u32::try_from(sequences.len()).unwrap_or(u32::MAX).saturating_mul(*tokens);
        let options = Options {
            causal: *causal,
            window: *window,
            sinks: *sinks,
            lag: *lag,
            packed: Some(rows),
            scale: *scale,
            softcap: softcap.filter(|cap| *cap != 0.0),
            ..Options::last(*heads, *tokens)
        };
        let mask = mask.as_ref().map(|Floats(numbers)| {
            let columns = u32::try_from(numbers.len()).unwrap_or(u32::MAX) / rows.max(1);
            MaskRows { numbers, shape: mask_shape.unwrap_or([1, 1, rows, columns]) }
        });
        let extras = Extras { mask, sink_logits: sink_logits.as_ref().map(|Floats(logits)| &logits[..]) };
        let both = run.attend(*layer, sequences, &options, queries, extras).map_err(|kind| kind.to_string())?;
        let (expected, actual) = match both {
            Ok(both) => both,
            Err(refused) => {
                let mut outcome = PagedOutcome::default();
                outcome.refused = Some(refused);
                return Ok((outcome, None));
            }
        };
        within(&expected, &actual.to_f32())?;
        let given = Given::Attention { output: Floats(actual.to_f32()), shape: actual.shape() };
        Ok((PagedOutcome::default(), Some(given)))
    }
}
