//! Steps that are refused, which change nothing.

use libtest_mimic::Failed;
use llama::{
    Error, batch,
    cache::{Chunk, Place, Sequence},
    engine::Engine,
    generate::{Wanted, generate},
};
use wgpu_kv_cache::Format;

use crate::{
    PAGES, ROWS,
    equality::{prepare, prompt},
    tiny::{CONTEXT, VOCABULARY},
};

pub fn refused(engine: &mut Engine, format: Format) -> Result<(), Failed> {
    let wanted = Wanted { tokens: 4, stops: Vec::new(), drafts: 0 };
    let long = prompt(CONTEXT + 1, 1);
    let known = prompt(10, 2);
    for place in [Place::Dense, PAGES] {
        prepare(engine, format, place, ROWS)?;
        let (sequence, _) = engine.cache.add(&known)?;
        engine.prefill(sequence, &known[..9])?;
        let refusals = [
            engine.prefill(sequence, &long[..CONTEXT - 8]).map(drop),
            engine.prefill(sequence, &[]).map(drop),
            engine.step(&[Chunk::new(sequence, &[VOCABULARY as u32])]).map(drop),
            engine.step(&[Chunk::new(sequence, &long[..ROWS as usize + 1])]).map(drop),
            generate(engine, sequence, &known[..9], &wanted, |_| Ok(())).map(drop),
        ];
        let said: Vec<_> =
            refusals.into_iter().map(|refusal| refusal.expect_err("it is refused").to_string()).collect();
        assert_eq!(
            said,
            [
                "257 tokens are to be cached, but the context has room for 256 (--context)",
                "a prompt must have a token at least",
                "the token 300 is not in the vocabulary of 300",
                "65 rows are to be computed in a step, but there is room for 64 (--rows)",
                "a prompt must have a token at least",
            ]
        );
        assert_eq!(engine.cache.length(sequence)?, 9);
        // The sequence goes on as if nothing had been asked.
        let after = generate(engine, sequence, &known, &wanted, |_| Ok(()))?.tokens;
        prepare(engine, format, place, ROWS)?;
        let (sequence, _) = engine.cache.add(&known)?;
        assert_eq!(generate(engine, sequence, &known, &wanted, |_| Ok(()))?.tokens, after);
    }

    prepare(engine, format, Place::Dense, ROWS)?;
    let two = [Chunk::new(Sequence::Only, &known), Chunk::new(Sequence::Only, &known)];
    let said = engine.step(&two).expect_err("a dense cache has one sequence").to_string();
    assert_eq!(said, "a dense cache and a ring hold one sequence; more than one sequence needs --placement pages");
    assert_eq!(engine.cache.length(Sequence::Only)?, 0);

    prepare(engine, format, Place::Pages { sequences: 4, page_size: 8, pages: 4 }, ROWS)?;
    let refusal = batch::run(engine, &[prompt(40, 3)], &wanted, |_| Ok(())).expect_err("it needs five pages");
    assert!(matches!(refusal, Error::Cache(_)), "{refusal}");
    assert!(refusal.to_string().contains('5'), "{refusal}");
    let refusal = batch::run(engine, &[prompt(30, 3)], &wanted, |_| Ok(())).expect_err("four tokens need a fifth page");
    assert_eq!(refusal.to_string(), "--pages: request 0 alone needs more pages than there are");
    let refusal = batch::run(engine, &[long], &wanted, |_| Ok(())).expect_err("it is too long").to_string();
    assert_eq!(refusal, "261 tokens are to be cached, but the context has room for 256 (--context)");
    Ok(())
}
