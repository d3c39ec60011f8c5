//! Random programs of all operations, device against reference, the whole storage compared after every step.

use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::select,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use wgpu_kv_cache::{
    CacheConfig, Context, Format,
    program::{Layout, Operation, Path, Positions, Program, Rows, Span},
};

use crate::{DONE, Gpu, Outcome, Test};

pub const TESTS: &[Test] =
    &[("programs::random", random), ("programs::random_in_small_bindings", random_in_small_bindings)];

/// Programs for each adapter and device.
const CASES: u32 = 150;

fn random(gpu: &Gpu) -> Outcome {
    run(&gpu.context)
}

fn random_in_small_bindings(gpu: &Gpu) -> Outcome {
    run(&gpu.small)
}

fn run(context: &Context) -> Outcome {
    let config = Config { cases: CASES, failure_persistence: None, max_shrink_iters: 400, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let checked = runner
        .run(&program(), |program| program.run(context).map_err(|failure| TestCaseError::fail(failure.to_string())));
    match checked {
        Ok(()) => DONE,
        Err(error) => Err(error.to_string().into()),
    }
}

fn format() -> impl Strategy<Value = Format> {
    select(&Format::ALL[..])
}

fn config() -> impl Strategy<Value = CacheConfig> {
    let dim = || select(&[1u32, 2, 3, 4, 6, 8, 16, 46, 64, 72][..]);
    (1..=3u32, 1..=3u32, dim(), dim(), 1..=12u32, format(), format()).prop_map(
        |(batch, heads, head_dim, value_dim, max_seq_len, keys, values)| {
            CacheConfig::new(batch, heads, head_dim, max_seq_len).value_dim(value_dim).formats(keys, values)
        },
    )
}

/// Mostly legal, now and then one past a limit.
fn span(config: CacheConfig) -> impl Strategy<Value = Span> {
    let most = config.max_seq_len;
    let batch = config.batch_size as usize;
    let tokens = prop_oneof![6 => 1..=most.min(4), 2 => 0..=most + 1];
    tokens.prop_flat_map(move |tokens| {
        let positions = prop_oneof![
            4 => Just(Positions::Append),
            2 => (0..=most).prop_map(Positions::At),
            3 => vec(0..=most.saturating_sub(tokens), batch).prop_map(Positions::Each),
            1 => vec(0..=most, 1..=batch + 1).prop_map(Positions::Each),
        ];
        let counts = option::of(prop_oneof![
            9 => vec(0..=tokens, batch),
            1 => vec(0..=tokens + 1, 1..=batch + 1),
        ]);
        (positions, counts).prop_map(move |(positions, counts)| Span { tokens, positions, counts })
    })
}

fn path() -> impl Strategy<Value = Path> {
    let layout = || select(&Layout::ALL[..]);
    prop_oneof![Just(Path::Host), layout().prop_map(Path::Encoder), layout().prop_map(Path::Pass)]
}

fn operation(config: CacheConfig, num_layers: usize) -> impl Strategy<Value = Operation> {
    let layer = move || prop_oneof![9 => 0..num_layers, 1 => 0..=num_layers];
    let rows = (format(), format(), any::<u64>()).prop_map(|(key_format, value_format, seed)| Rows {
        key_format,
        value_format,
        seed,
    });
    let update = (layer(), span(config), rows, path()).prop_map(|(layer, span, rows, path)| Operation::Update {
        layer,
        span,
        rows,
        path,
    });
    let advance =
        (layer(), span(config), any::<u64>()).prop_map(|(layer, span, seed)| Operation::Advance { layer, span, seed });
    let get = (layer(), 0..=config.max_seq_len, 0..=config.max_seq_len, any::<bool>())
        .prop_map(|(layer, start, end, guarded)| Operation::Get { layer, start, end, guarded });
    prop_oneof![
        8 => update,
        2 => advance,
        4 => get,
        2 => layer().prop_map(|layer| Operation::GetAll { layer }),
        1 => Just(Operation::Reset),
    ]
}

fn program() -> impl Strategy<Value = Program> {
    (config(), 1..=2usize, any::<bool>()).prop_flat_map(|(config, num_layers, poison)| {
        vec(operation(config, num_layers), 1..12).prop_map(move |operations| Program {
            config,
            num_layers,
            poison,
            operations,
        })
    })
}
