//! The README's table of operations, placements and formats. Each cell is a test of that name.

use libtest_mimic::Failed;
use wgpu_kv_cache::{
    CacheConfig, Context, Format, KvCache, Placement, ReferenceCache, Side, Write,
    attention::{Options, attend},
    compare_tensors,
    program::{Change, Layout, Lengths, Operation, Path, Positions, Program, Rows, Span},
};

/// The rows of the table.
pub const OPERATIONS: [&str; 18] = [
    "update",
    "record_advance",
    "get",
    "get_as",
    "get_all",
    "truncate",
    "clear_sequence",
    "select",
    "reorder",
    "repeat",
    "copy_sequence",
    "copy_range",
    "keep",
    "extract",
    "insert",
    "reset",
    "wgsl",
    "attention",
];

pub const PLACEMENTS: [(&str, Placement); 2] =
    [("linear", Placement::Linear), ("ring", Placement::Ring { window: 6, sinks: 2, slack: 3 })];

/// In the block formats, keys fill two blocks and part of a third, and values part of one.
fn config(format: Format, placement: Placement) -> CacheConfig {
    CacheConfig::new(2, 2, 72, 20)
        .value_dim(24)
        .max_batch_size(4)
        .formats(format, format)
        .scales(0.37, 1.9)
        .placement(placement)
}

pub fn cell(context: &Context, format: Format, placement: Placement, operation: &str) -> Result<(), Failed> {
    let config = config(format, placement);
    let update = |tokens, counts: Option<Vec<u32>>, seed, path| Operation::Update {
        layer: 0,
        span: Span { tokens, positions: Positions::Append, counts, whole: false, attended: false },
        rows: Rows { key_format: Format::F32, value_format: Format::F16, seed },
        path,
    };
    let change = |change| Operation::Sequences { change, in_pass: false };
    let tested = match operation {
        "update" => vec![
            update(3, Some(vec![3, 0]), 1, Path::Pass(Layout::Gaps)),
            Operation::Update {
                layer: 0,
                span: Span {
                    tokens: 2,
                    positions: Positions::Each(vec![14, 13]),
                    counts: None,
                    whole: false,
                    attended: false,
                },
                rows: Rows { key_format: Format::Bf16, value_format: Format::F32, seed: 2 },
                path: Path::Host,
            },
        ],
        "record_advance" => vec![Operation::Advance { layer: 0, span: Span::append(2), seed: 5 }],
        "get" => vec![Operation::Get { layer: 0, start: 7, end: 11, guarded: true }],
        "get_all" => vec![Operation::GetAll { layer: 0 }],
        "truncate" => vec![change(Change::Truncate(Lengths::Each(vec![9, 8])))],
        "clear_sequence" => vec![change(Change::Clear(1))],
        "select" => vec![change(Change::Select(vec![1, 0, 1]))],
        "reorder" => vec![change(Change::Reorder(vec![1, 0]))],
        "repeat" => vec![change(Change::Repeat(2))],
        "copy_sequence" => vec![change(Change::CopySequence { from: 0, to: 1 })],
        "copy_range" => vec![change(Change::CopyRange { from: 0, start: 8, end: 11, to: 1, position: 9 })],
        "keep" => vec![change(Change::Keep { sequence: 0, last: 3, indices: vec![0, 2] })],
        "extract" => vec![Operation::Extract { sequence: 1 }],
        "insert" => {
            let rows = Rows { key_format: Format::F32, value_format: Format::Bf16, seed: 6 };
            vec![Operation::Insert { sequence: 2, length: 13, rows }]
        }
        "reset" => vec![Operation::Reset],
        "get_as" | "wgsl" | "attention" => return read(context, config, operation),
        other => return Err(format!("{other} is no operation").into()),
    };
    let mut program = Program::new(config, 1);
    program.poison = true;
    program.operations.push(update(11, Some(vec![11, 9]), 3, Path::Encoder(Layout::Fused)));
    program.operations.extend(tested);
    program.operations.push(update(1, None, 4, Path::Pass(Layout::Bthd)));
    program.operations.push(Operation::GetAll { layer: 0 });
    Ok(program.run(context)?)
}

/// Tests the operations that only read.
fn read(context: &Context, config: CacheConfig, operation: &str) -> Result<(), Failed> {
    let (mut cache, mut expected) = (KvCache::new(context, config)?, ReferenceCache::new(config)?);
    let rows = |dim: u32, step: f32| -> Vec<f32> { (0..2 * 2 * 12 * dim).map(|i| (i as f32 * step).sin()).collect() };
    let (keys, values) = (rows(72, 0.7), rows(24, 1.3));
    for (tokens, counts) in [(12, [12, 10]), (1, [1, 0])] {
        let (keys, values) = (&keys[..2 * 2 * tokens * 72], &values[..2 * 2 * tokens * 24]);
        let write = Write::append(tokens as u32).counts(&counts);
        cache.update(keys, values, write)?;
        expected.update(keys, values, write)?;
    }
    match operation {
        "get_as" => {
            for format in Format::FLOATS {
                let (expected, actual) = (expected.get_as(7..13, format)?, cache.get_as(7..13, format)?.read()?);
                for side in Side::BOTH {
                    let difference = compare_tensors(0, side, expected.side(side), actual.side(side))?;
                    if let Some(difference) = difference {
                        return Err(format!("as {format}: {difference}").into());
                    }
                }
            }
        }
        "wgsl" => {
            let [keys, values] = crate::reading::read_by_text(&cache, crate::reading::How::Vectors)?;
            let [expected_keys, expected_values] = crate::reading::rows_of(&cache, &expected)?;
            assert_eq!((keys, values), (expected_keys, expected_values));
        }
        _ => {
            let queries: Vec<f32> = (0..2 * 4 * 2 * 72).map(|i| (i as f32 * 0.3).cos()).collect();
            let options = Options::last(4, 2);
            let expected = expected.attend(&options, &queries, None)?;
            let actual = attend(&cache, &options, &queries, None)?.to_f32();
            let distance = crate::rows::distance(&expected, &actual);
            assert!(distance < crate::rows::BOUND, "the distance is {distance:.2e}");
        }
    }
    Ok(())
}
