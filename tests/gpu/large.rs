//! Sizes that break caches: more than a binding, more than 65 535 workgroups, every head size, odd starts.

use wgpu_kv_cache::{
    CacheConfig, Context, Format, KvCache, Placement, ReferenceCache, Side, Write,
    program::{Change, Layout, Operation, Path, Positions, Program, Rows, Span},
};

use crate::{DONE, Gpu, Outcome, Test, formats::compare, reading::pairs};

pub const TESTS: &[Test] = &[
    ("large::every_head_size", every_head_size),
    ("large::odd_starts_in_16_bit_formats", odd_starts_in_16_bit_formats),
    ("large::sources_larger_than_a_binding", sources_larger_than_a_binding),
    ("large::ranges_larger_than_a_binding", ranges_larger_than_a_binding),
    ("large::ranges_of_many_segments_in_every_format", ranges_of_many_segments_in_every_format),
];

/// Tests where copies play no role, or only one that tests with smaller segments already cover.
pub const OF_KERNELS: &[Test] = &[
    ("large::two_segments_of_128_mib_a_side", two_segments_of_128_mib_a_side),
    ("large::more_than_65535_workgroups", more_than_65535_workgroups),
    ("large::grids_that_are_eleven_wide", grids_that_are_eleven_wide),
    ("large::more_heads_than_a_grid_is_high", more_heads_than_a_grid_is_high),
];

fn rows(key_format: Format, value_format: Format, seed: u64) -> Rows {
    Rows { key_format, value_format, seed }
}

fn update(span: Span, rows: Rows, path: Path) -> Operation {
    Operation::Update { layer: 0, span, rows, path }
}

fn run(context: &Context, program: &Program) -> Outcome {
    program.run(context).map_err(|failure| format!("{:?}: {failure}", program.config))?;
    DONE
}

/// Writes 256 MiB of keys and 256 MiB of values in one call. With the common binding limit of 128 MiB this takes two
/// segments a side, and more than one window onto the source.
fn two_segments_of_128_mib_a_side(gpu: &Gpu) -> Outcome {
    let config = CacheConfig::new(1, 8, 512, 16384);
    let limits =
        wgpu::Limits { max_storage_buffer_binding_size: 128 << 20, max_buffer_size: 512 << 20, ..gpu.adapter.limits() };
    let context = Gpu::open(&gpu.adapter, limits, gpu.costs)?;
    let segments = KvCache::new(&context, config)?.view().side(Side::Keys).segments().len();
    assert_eq!(segments, 2, "a plane is 32 MiB, a binding 128 MiB");
    let mut program = Program::new(config, 1);
    program.operations = vec![
        update(Span::append(16384), rows(Format::F32, Format::F32, 1), Path::Host),
        Operation::Get { layer: 0, start: 16381, end: 16384, guarded: true },
        Operation::GetAll { layer: 0 },
    ];
    run(&context, &program)
}

/// One dispatch covers more than 65 535 × 256 words, so the grid needs its second dimension.
fn more_than_65535_workgroups(gpu: &Gpu) -> Outcome {
    let tokens = 5_600_000;
    let config = CacheConfig::new(1, 1, 3, tokens).value_dim(1).formats(Format::F32, Format::F16);
    assert!(u64::from(tokens) * 3 > 65_535 * 256);
    let mut program = Program::new(config, 1);
    program.operations = vec![
        update(Span::append(tokens), rows(Format::F32, Format::F32, 2), Path::Host),
        Operation::GetAll { layer: 0 },
    ];
    run(&gpu.context, &program)
}

/// The second grid dimension again, in a small cache: a plane takes 17 workgroups and the grid is 11 wide.
fn grids_that_are_eleven_wide(gpu: &Gpu) -> Outcome {
    let limits = wgpu::Limits { max_compute_workgroups_per_dimension: 11, ..gpu.adapter.limits() };
    let context = Gpu::open(&gpu.adapter, limits, gpu.costs)?;
    let config = CacheConfig::new(1, 7, 3, 1400).formats(Format::F32, Format::Bf16);
    let mut program = Program::new(config, 1);
    program.operations = vec![
        update(Span::append(1400), rows(Format::F32, Format::F32, 7), Path::Encoder(Layout::Bthd)),
        Operation::Get { layer: 0, start: 3, end: 1398, guarded: true },
    ];
    run(&context, &program)
}

/// Permutes sequences in a cycle, then with a duplicate, in two layers that have more heads than a grid is high.
fn more_heads_than_a_grid_is_high(gpu: &Gpu) -> Outcome {
    let limits = wgpu::Limits { max_compute_workgroups_per_dimension: 11, ..gpu.adapter.limits() };
    let context = Gpu::open(&gpu.adapter, limits, gpu.costs)?;
    let mut program = Program::new(CacheConfig::new(3, 12, 3, 5).formats(Format::F16, Format::F32), 2);
    let change = |sources: &[u32]| Operation::Sequences { change: Change::Reorder(sources.to_vec()), in_pass: true };
    program.operations = vec![
        update(Span::append(4), rows(Format::F32, Format::F32, 3), Path::Encoder(Layout::Bthd)),
        change(&[2, 0, 1]),
        change(&[1, 1, 2]),
        Operation::GetAll { layer: 0 },
    ];
    run(&context, &program)
}

fn every_head_size(gpu: &Gpu) -> Outcome {
    let pairs = [(Format::F32, Format::F16), (Format::Bf16, Format::F32), (Format::F16, Format::Bf16)];
    for (index, dim) in (0..).zip([1, 3, 46, 64, 72, 80, 96, 128, 256, 576]) {
        // Odd sizes run with every pair of formats. The others differ only in a constant, so they take the pairs in
        // turn.
        let pairs = pairs.iter().enumerate().filter(|(pair, _)| dim % 2 == 1 || index % 3 == *pair as u64);
        for (_, &(keys, values)) in pairs {
            let config = CacheConfig::new(2, 2, dim, 9).formats(keys, values);
            let mut program = Program::new(config, 1);
            program.poison = true;
            program.operations = vec![
                update(Span::append(4), rows(Format::F32, Format::F16, index), Path::Host),
                update(Span::append(1), rows(keys, values, index + 100), Path::Encoder(Layout::Fused)),
                update(
                    Span {
                        tokens: 3,
                        positions: Positions::Each(vec![6, 1]),
                        counts: Some(vec![3, 2]),
                        whole: false,
                        attended: false,
                    },
                    rows(Format::F16, Format::F32, index + 200),
                    Path::Pass(Layout::Bthd),
                ),
                Operation::Get { layer: 0, start: 1, end: 8, guarded: true },
                Operation::GetAll { layer: 0 },
            ];
            run(&gpu.context, &program)?;
        }
    }
    DONE
}

/// Rows that start in the middle of a word, next to rows that must not change.
fn odd_starts_in_16_bit_formats(gpu: &Gpu) -> Outcome {
    for dim in [1, 3, 5] {
        for format in [Format::F16, Format::Bf16] {
            let config = CacheConfig::new(2, 1, dim, 7).formats(format, format);
            for start in 0..6 {
                for tokens in 1..=7 - start {
                    let mut program = Program::new(config, 1);
                    program.operations = vec![
                        update(Span::append(7), rows(format, format, 3), Path::Host),
                        update(
                            Span {
                                tokens,
                                positions: Positions::At(start),
                                counts: None,
                                whole: false,
                                attended: false,
                            },
                            rows(format, Format::F32, 4),
                            Path::Encoder(Layout::Gaps),
                        ),
                        Operation::Get { layer: 0, start: start / 2, end: start + tokens, guarded: true },
                    ];
                    run(&gpu.context, &program)?;
                }
            }
        }
    }
    DONE
}

/// Binds sources of up to 40 KiB in windows of 4 KiB, which cuts them between planes and between tokens.
fn sources_larger_than_a_binding(gpu: &Gpu) -> Outcome {
    let ring = Placement::Ring { window: 9, sinks: 3, slack: 4 };
    // Placement, position of the first update, positions of the second. The first update leaves a gap, the second
    // rewinds. In the ring the gap covers all sinks and some positions next to the tokens.
    let placed = [(Placement::Linear, 1, vec![7, 0]), (ring, 5, vec![15, 13])];
    for ((placement, first, second), layout) in
        placed.iter().flat_map(|placed| Layout::ALL.map(|layout| (placed, layout)))
    {
        for dim in [64, 46] {
            let config = CacheConfig::new(2, 4, dim, 14).formats(Format::F32, Format::F16).placement(*placement);
            let mut program = Program::new(config, 1);
            // Poison shows whether the gap becomes zero in every part of the source.
            program.poison = true;
            program.operations = vec![
                update(
                    Span {
                        tokens: 13,
                        positions: Positions::At(*first),
                        counts: Some(vec![13, 9]),
                        whole: false,
                        attended: false,
                    },
                    rows(Format::F32, Format::F16, 5),
                    Path::Encoder(layout),
                ),
                update(
                    Span {
                        tokens: 7,
                        positions: Positions::Each(second.clone()),
                        counts: None,
                        whole: false,
                        attended: false,
                    },
                    rows(Format::Bf16, Format::F32, 6),
                    Path::Pass(layout),
                ),
                Operation::GetAll { layer: 0 },
            ];
            run(&gpu.small, &program)?;
        }
    }
    DONE
}

/// Windows of 4 KiB onto the destination begin in the middle of a plane, and in the middle of a segment of many planes.
fn ranges_larger_than_a_binding(gpu: &Gpu) -> Outcome {
    // One plane has 4080 bytes in rows of whole 16-byte vectors. The other has 312 bytes, 13 planes to a segment, and
    // its rows share words.
    let planes = CacheConfig::new(2, 3, 60, 17);
    let segments = CacheConfig::new(4, 8, 3, 52).formats(Format::F16, Format::Bf16);
    for config in [planes, segments] {
        let mut program = Program::new(config, 1);
        let most = config.max_seq_len;
        program.operations = vec![
            update(Span::append(most), rows(Format::F32, Format::F16, 8), Path::Host),
            Operation::GetAll { layer: 0 },
            Operation::Get { layer: 0, start: 1, end: most, guarded: true },
        ];
        run(&gpu.small, &program)?;
    }
    DONE
}

/// Planes of every format in more than two segments a side, read as they are stored and as numbers.
fn ranges_of_many_segments_in_every_format(gpu: &Gpu) -> Outcome {
    for (key_format, value_format) in pairs() {
        let config = CacheConfig::new(4, 8, 40, 8).value_dim(56).formats(key_format, value_format).scales(0.3, 0.7);
        let (mut cache, mut reference) = (KvCache::new(&gpu.small, config)?, ReferenceCache::new(config)?);
        assert!(Side::BOTH.iter().all(|side| cache.view().side(*side).segments().len() > 2));
        let rows = |dim: usize, step: f32| -> Vec<f32> {
            (0..4 * 8 * 7 * dim).map(|index| (index as f32 * step).sin()).collect()
        };
        let (keys, values) = (rows(40, 0.7), rows(56, 1.3));
        let write = Write::append(7).counts(&[7, 6, 0, 5]);
        cache.update(&keys, &values, write)?;
        reference.update(&keys, &values, write)?;
        compare(&reference.get(1..7)?, &cache.get(1..7)?.read()?)
            .map_err(|difference| format!("{key_format} and {value_format}: {difference}"))?;
        for format in Format::FLOATS {
            compare(&reference.get_as(1..7, format)?, &cache.get_as(1..7, format)?.read()?)
                .map_err(|difference| format!("{key_format} and {value_format} as {format}: {difference}"))?;
        }
    }
    DONE
}
