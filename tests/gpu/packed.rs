//! Attention of packed queries, with sink logits, and with windows that end before the query, compared with the
//! reference in f64.

use wgpu_kv_cache::{
    AttentionError, CacheConfig, Error, Format, KvCache, Placement, ReferenceCache, RowsIn, StepError, Strides, Write,
    WriteError,
    attention::{Attention, Extras, MaskRows, Options, Queries, Reading, SinkLogits, Tensors, attend},
};

use crate::{
    DONE, Gpu, Outcome, Test,
    rows::{BOUND, RING, distance, numbers},
};

pub const TESTS: &[Test] = &[
    ("packed::counts_of_every_kind", counts_of_every_kind),
    ("packed::more_sequences_than_threads", more_sequences_than_threads),
    ("packed::sink_logits_join_the_sum", sink_logits_join_the_sum),
    ("packed::a_window_ends_before_the_query", a_window_ends_before_the_query),
    ("packed::rows_outside_stay", rows_outside_stay),
    ("packed::queries_before_the_beginning_see_nothing", queries_before_the_beginning_see_nothing),
    ("packed::refusals", refusals),
];

type Both = (KvCache, ReferenceCache);

/// A layer on device and reference, with `before` rows of each sequence and then `counts` just written.
fn written(gpu: &Gpu, config: CacheConfig, before: &[u32], counts: &[u32]) -> Result<Both, Error> {
    let (mut cache, mut reference) = (KvCache::new(&gpu.context, config)?, ReferenceCache::new(config)?);
    for (seed, counts) in [(1, before), (2, counts)] {
        let tokens = counts.iter().copied().max().unwrap_or(0).max(1);
        let rows = (config.batch_size * config.num_heads * tokens) as usize;
        let keys = numbers(rows * config.head_dim as usize, seed);
        let values = numbers(rows * config.value_dim as usize, seed + 10);
        let write = Write::append(tokens).counts(counts);
        cache.update(&keys, &values, write)?;
        reference.update(&keys, &values, write)?;
    }
    Ok((cache, reference))
}

fn check((cache, reference): &Both, options: &Options, rows: u32, added: Extras<'_>) -> Outcome {
    let config = cache.config();
    let queries = numbers((rows * options.query_heads * config.head_dim) as usize, 77);
    let failed = |error: Error| format!("{options:?}: {error}");
    let expected = reference.attend(options, &queries, added).map_err(failed)?;
    let actual = attend(cache, options, &queries, added).map_err(failed)?;
    if options.packed.is_some() {
        assert_eq!(actual.shape(), [1, rows, options.query_heads, config.value_dim]);
    }
    let distance = distance(&expected, &actual.to_f32());
    if distance.is_nan() || distance > BOUND {
        return Err(format!("{options:?}, {config:?}: the distance is {distance:.2e}").into());
    }
    DONE
}

fn counts_of_every_kind(gpu: &Gpu) -> Outcome {
    // Prefill and decode mixed, sequences without queries at either end, tiles of several tokens and tokens of several
    // tiles. Drivers take seconds for each kernel.
    let (linear, ring) = (Placement::Linear, Placement::Ring { window: 60, sinks: 3, slack: 40 });
    for (heads, kv_heads, format, counts, reading, placement, splits) in [
        (4, 2, Format::F16, &[0, 1, 9, 0, 1, 17, 2, 0][..], Reading::Coalesced, linear, 1),
        (10, 1, Format::Q8_0, &[1, 1, 3, 1][..], Reading::Coalesced, ring, 3),
        (2, 2, Format::F32, &[1; 5][..], Reading::Sequential, linear, 3),
        (4, 2, Format::F32, &[5, 0, 30][..], Reading::Sequential, ring, 1),
    ] {
        let batch = counts.len() as u32;
        let before: Vec<u32> = (0..batch).map(|sequence| (sequence * 37 + 5) % 90).collect();
        let total: u32 = counts.iter().sum();
        let config =
            CacheConfig::new(batch, kv_heads, 32, 130).value_dim(24).formats(format, format).placement(placement);
        let both = written(gpu, config, &before, counts)?;
        let options = Options { reading: Some(reading), splits: Some(splits), ..Options::packed(heads, total + 3) };
        check(&both, &options, total, Extras::default())?;
        let mask: Vec<f32> = numbers((heads * total * 130) as usize, 5)
            .into_iter()
            .map(|x| if x > 0.6 { f32::NEG_INFINITY } else { x })
            .collect();
        for shape in [[1, heads, total, 130], [1, 1, total, 130], [1, 1, 1, 130]] {
            let numbers = &mask[..shape.iter().product::<u32>() as usize];
            check(&both, &options, total, Some(MaskRows { numbers, shape }).into())?;
        }
        // The last positions, whatever was written: equal counts.
        let last = Options { queries: Queries::Last, tokens: 3, packed: Some(3 * batch), ..options };
        check(&both, &Options { window: Some(11), sinks: 2, ..last }, 3 * batch, Extras::default())?;
    }
    DONE
}

fn more_sequences_than_threads(gpu: &Gpu) -> Outcome {
    let counts: Vec<u32> = (0..150).map(|sequence| [0, 1, 1, 4, 0, 0, 2][sequence % 7]).collect();
    let config = CacheConfig::new(150, 1, 8, 12).max_batch_size(200);
    let both = written(gpu, config, &vec![3; 150], &counts)?;
    let total = counts.iter().sum();
    for (splits, reading) in [(1, Reading::Sequential), (2, Reading::Coalesced)] {
        let options = Options { splits: Some(splits), reading: Some(reading), ..Options::packed(3, total) };
        check(&both, &options, total, Extras::default())?;
    }
    DONE
}

fn sink_logits_join_the_sum(gpu: &Gpu) -> Outcome {
    let config = CacheConfig::new(3, 2, 16, 64).formats(Format::F16, Format::Bf16);
    let both = written(gpu, config, &[40, 0, 7], &[2, 0, 3])?;
    let packed = Options { splits: Some(1), ..Options::packed(4, 5) };
    let strided = Options { splits: Some(3), softcap: Some(2.0), scale: Some(1.5), ..Options::new(4, 3) };
    // Above, among and below the scores, and none at all.
    for logits in
        [[3.0, -2.0, 0.5, 0.0], [40.0, -40.0, 1.0, f32::NEG_INFINITY], [-3.0e38, -3.4e38, f32::NEG_INFINITY, -2.9e38]]
    {
        let added = Extras { mask: None, sink_logits: Some(&logits) };
        check(&both, &packed, 5, added)?;
        check(&both, &strided, 9, added)?;
        // Nothing is seen: zeros, whatever the sinks are.
        let hidden = [f32::NEG_INFINITY; 64];
        let mask = Some(MaskRows { numbers: &hidden, shape: [1, 1, 1, 64] });
        let output = attend(&both.0, &packed, &[0.5; 5 * 4 * 16], Extras { mask, ..added })?;
        assert!(output.to_f32().iter().all(|number| number.to_bits() == 0), "{logits:?}");
    }
    // As in a softmax, an infinite one leaves nothing.
    for logit in [f32::NAN, f32::INFINITY] {
        let added = Extras { mask: None, sink_logits: Some(&[0.0, logit, 0.0, 0.0]) };
        let output = attend(&both.0, &packed, &[0.5; 5 * 4 * 16], added)?.to_f32();
        for (row, numbers) in output.chunks(16).enumerate() {
            assert!(numbers.iter().all(|number| number.is_nan() == (row % 4 == 1)), "row {row}: {numbers:?}");
        }
    }
    DONE
}

fn queries_before_the_beginning_see_nothing(gpu: &Gpu) -> Outcome {
    // More queries at the last positions than there are positions. A tile has several tokens: some of them lie before
    // the beginning, and others see positions.
    let config = CacheConfig::new(3, 1, 64, 16);
    let both = written(gpu, config, &[1, 3, 7], &[0, 0, 0])?;
    for (reading, packed) in [(Reading::Coalesced, None), (Reading::Sequential, Some(18))] {
        let options = Options { packed, reading: Some(reading), splits: Some(1), ..Options::last(1, 6) };
        check(&both, &options, 18, Extras::default())?;
    }
    DONE
}

fn a_window_ends_before_the_query(gpu: &Gpu) -> Outcome {
    let (linear, ring) = (Placement::Linear, RING);
    for (placement, reading, options) in [
        (linear, Reading::Coalesced, Options { lag: 1, ..Options::new(2, 4) }),
        (linear, Reading::Coalesced, Options { lag: 2, window: Some(9), sinks: 3, ..Options::new(2, 4) }),
        (linear, Reading::Sequential, Options { lag: 10, ..Options::last(2, 4) }),
        (ring, Reading::Coalesced, Options { lag: 3, splits: Some(2), ..Options::new(2, 4) }),
        (ring, Reading::Coalesced, Options { lag: 4, window: Some(5), ..Options::last(2, 4) }),
        (ring, Reading::Sequential, Options { lag: 10, causal: false, ..Options::last(2, 4) }),
    ] {
        let config = CacheConfig::new(2, 1, 16, 256).placement(placement).formats(Format::F16, Format::F32);
        let both = written(gpu, config, &[200, 1], &[4, 3])?;
        check(&both, &Options { reading: Some(reading), ..options }, 8, Extras::default())?;
        if options.splits.is_some() || options.sinks > 0 {
            let packed = Options { packed: Some(9), ..options };
            check(&both, &packed, 7, Extras::default())?;
        }
    }
    // All positions but those of the window's end: nothing is left of the first.
    let config = CacheConfig::new(1, 1, 4, 8);
    let both = written(gpu, config, &[0], &[3])?;
    let output = attend(&both.0, &Options { lag: 2, ..Options::new(1, 3) }, &[1.0; 12], None)?.to_f32();
    assert!(output[..8].iter().all(|number| *number == 0.0) && output[8..].iter().all(|number| *number != 0.0));
    DONE
}

/// A step writes the rows of its queries, at the strides that it was given, and no byte beside them.
fn rows_outside_stay(gpu: &Gpu) -> Outcome {
    let context = &gpu.context;
    let config = CacheConfig::new(3, 1, 8, 32).max_batch_size(4);
    let both = written(gpu, config, &[9, 20, 2], &[2, 0, 3])?;
    let (heads, bound) = (3u32, 7u32);
    let given = numbers((bound * heads * 8) as usize, 4);
    let logits = [9.0f32, 0.1, 0.2, 0.3];
    let queries = crate::engine::storage(context, bytemuck::cast_slice(&given));
    let sinks = crate::engine::storage(context, bytemuck::cast_slice(&logits));
    for splits in [1, 2] {
        let output = crate::engine::storage(context, &[0xa5; 4 * 7 * 40]);
        let strides = Strides { sequence: 1, head: 8, token: 24 };
        let tensors = Tensors {
            queries: RowsIn { buffer: &queries, offset: 0, format: Format::F32, strides },
            output: RowsIn {
                buffer: &output,
                offset: 16,
                format: Format::F32,
                strides: Strides { sequence: 1, head: 9, token: 36 },
            },
            mask: None,
            sink_logits: Some(SinkLogits { buffer: &sinks, offset: 4 }),
        };
        let options = Options { splits: Some(splits), ..Options::packed(heads, bound) };
        let attention = Attention::new(&both.0, &options, &tensors)?;
        attention.warm_up(&both.0)?;
        let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        attention.record(&both.0, &mut encoder)?;
        context.queue().submit([encoder.finish()]);
        let read: Vec<u32> = crate::engine::read(context, &output);
        let added = Extras { mask: None, sink_logits: Some(&logits[1..]) };
        let expected = both.1.attend(&options, &given[..5 * 24], added)?;
        let mut actual = Vec::new();
        for (at, &word) in read.iter().enumerate() {
            let dim = at.checked_sub(4).map(|at| (at / 36, at % 36 / 9, at % 9));
            match dim {
                Some((row, head, dim)) if row < 5 && head < 3 && dim < 8 => actual.push(f32::from_bits(word)),
                _ => assert_eq!(word, 0xa5a5_a5a5, "word {at}"),
            }
        }
        let distance = distance(&expected, &actual);
        assert!(distance <= BOUND, "{splits}: {distance:.2e}");
    }
    DONE
}

fn refused((cache, reference): &Both, options: &Options, count: usize, added: Extras<'_>, expected: &Error) {
    let queries = numbers(count, 1);
    assert_eq!(attend(cache, options, &queries, added).map(drop), Err(expected.clone()));
    assert_eq!(reference.attend(options, &queries, added).map(drop), Err(expected.clone()));
}

fn refusals(gpu: &Gpu) -> Outcome {
    let mut both = written(gpu, CacheConfig::new(2, 1, 4, 16), &[3, 5], &[2, 1])?;
    let options = Options::packed(2, 3);
    // Counts beyond the bound, of all sequences and of one.
    let beyond = |name, tokens, bound| Error::Step(StepError::MoreTokensThanBound { name, tokens, bound });
    let none = Extras::default();
    refused(&both, &Options::packed(2, 2), 24, none, &beyond("packed queries", 3, 2));
    let one = Options { tokens: 1, ..options };
    refused(&both, &one, 24, none, &beyond("queries", 2, 1));
    // Another number than the counts say.
    let length = |name, expected, actual| Error::Attention(AttentionError::TensorLength { name, expected, actual });
    refused(&both, &options, 16, none, &length("queries", 24, 16));
    let logits = Extras { mask: None, sink_logits: Some(&[0.0]) };
    refused(&both, &options, 24, logits, &length("sink logits", 2, 1));
    for splits in [0, 65] {
        let options = Options { splits: Some(splits), ..options };
        refused(&both, &options, 24, none, &Error::Attention(AttentionError::Splits { splits, most: 64 }));
    }
    // Of two wrong numbers the counts are told.
    let short = Some(MaskRows { numbers: &[0.0; 2], shape: [1, 1, 1, 2] }).into();
    refused(&both, &one, 24, short, &beyond("queries", 2, 1));
    // A window that ends before it begins.
    for (window, lag) in [(3, 3), (1, 9)] {
        let options = Options { window: Some(window), lag, ..options };
        let expected = Error::Attention(AttentionError::AttentionLag { window, lag });
        refused(&both, &options, 24, none, &expected);
    }
    let mask = Some(MaskRows { numbers: &[0.0; 32], shape: [2, 1, 1, 16] }).into();
    let expected = AttentionError::MaskShape { batch_size: 1, query_heads: 2, tokens: 3, shape: [2, 1, 1, 16] };
    refused(&both, &options, 24, mask, &Error::Attention(expected));
    let no_rows = Error::Write(WriteError::NoTokens);
    refused(&both, &Options { packed: Some(0), ..Options::last(2, 1) }, 0, none, &beyond("packed queries", 2, 0));
    both.0.truncate(&[3, 3])?;
    both.1.truncate(&[3, 3])?;
    refused(&both, &options, 0, none, &no_rows);

    // The buffer of the sinks.
    let context = &gpu.context;
    let [queries, output] = [0; 2].map(|_| crate::engine::storage(context, &[0; 96]));
    let rows = |buffer| RowsIn { buffer, offset: 0, format: Format::F32, strides: Strides::bthd(2, 3, 4) };
    let made = |buffer, offset| {
        let sink_logits = Some(SinkLogits { buffer, offset });
        let tensors = Tensors { queries: rows(&queries), output: rows(&output), mask: None, sink_logits };
        Attention::new(&both.0, &options, &tensors).map(drop)
    };
    let name = "sink logits";
    assert_eq!(made(&queries, 88), Ok(()));
    let range = AttentionError::TensorRange { name, needed: 100, actual: 96 };
    assert_eq!(made(&queries, 92), Err(Error::Attention(range)));
    let misaligned = AttentionError::TensorMisaligned { what: "the offset of the sink logits", value: 2, alignment: 4 };
    assert_eq!(made(&queries, 2), Err(Error::Attention(misaligned)));
    assert_eq!(made(&output, 0), Err(Error::Attention(AttentionError::OutputShared { name })));
    DONE
}
