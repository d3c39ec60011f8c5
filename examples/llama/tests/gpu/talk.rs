//! Conversations, and tokens that are drawn.

use libtest_mimic::Failed;
use llama::{
    batch,
    cache::Place,
    chat::Chat,
    engine::{Engine, Sampling},
    generate::{Wanted, generate},
    tokens::Tokens,
};
use wgpu_kv_cache::Format;

use crate::{
    PAGES, ROWS,
    equality::{prepare, prompt},
};

const WANTED: Wanted = Wanted { tokens: 6, stops: Vec::new(), drafts: 0 };

/// Each turn finds the pages of those before it: in the pool, and after a restart in the folder.
pub fn conversation(engine: &mut Engine, tokens: &Tokens, format: Format) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let ask =
        |engine: &mut Engine, chat: &mut Chat, question: &str| chat.ask(engine, tokens, question, &WANTED, |_| Ok(()));
    let questions = ["what is there to be seen?", "and then?", "why?"];
    // Without a folder, and nothing lost in between.
    prepare(engine, format, PAGES, ROWS)?;
    let mut chat = Chat::new(None, "tiny")?;
    let expected: Vec<_> =
        questions.iter().map(|question| ask(engine, &mut chat, question)).collect::<Result<_, _>>()?;
    assert!(expected[1].cached > 0 && expected[2].cached > expected[1].cached, "{expected:?}");

    prepare(engine, format, PAGES, ROWS)?;
    let mut chat = Chat::new(Some(folder.path()), "tiny")?;
    let first = ask(engine, &mut chat, questions[0])?;
    assert_eq!((first.cached, first.fetched), (0, 0));
    ask(engine, &mut chat, questions[1])?;
    drop(chat);
    // A restart: the pool is empty.
    prepare(engine, format, PAGES, ROWS)?;
    let mut chat = Chat::new(Some(folder.path()), "tiny")?;
    let third = ask(engine, &mut chat, questions[2])?;
    assert_eq!((third.cached, third.fetched), (0, expected[2].cached));
    assert_eq!((third.tokens, &third.generation.tokens), (expected[2].tokens, &expected[2].generation.tokens));
    // Weights of another name do not find them.
    prepare(engine, format, PAGES, ROWS)?;
    let other = ask(engine, &mut Chat::new(Some(folder.path()), "other")?, "and now?")?;
    assert_eq!((other.cached, other.fetched), (0, 0));
    Ok(())
}

/// Drawn tokens depend on the seed, and not on who else is in the batch.
pub fn drawn(engine: &mut Engine, format: Format) -> Result<(), Failed> {
    let prompts: Vec<_> = (0..3).map(|i| prompt(12, 40 + i)).collect();
    let mut run = |seed: u32, temperature: f32| -> Result<Vec<Vec<u32>>, Failed> {
        engine.sampling = Sampling { temperature, seed };
        prepare(engine, format, PAGES, ROWS)?;
        let mut together = vec![Vec::new(); prompts.len()];
        batch::run(engine, &prompts, &WANTED, |done| {
            together[done.index].clone_from(&done.tokens);
            Ok(())
        })?;
        for (prompt, together) in prompts.iter().zip(&together) {
            prepare(engine, format, Place::Dense, ROWS)?;
            let (sequence, _) = engine.cache.add(prompt)?;
            assert_eq!(&generate(engine, sequence, prompt, &WANTED, |_| Ok(()))?.tokens, together);
        }
        engine.sampling = Sampling::default();
        Ok(together)
    };
    let (best, one, other) = (run(1, 0.0)?, run(1, 2.0)?, run(2, 2.0)?);
    assert!(best != one && one != other);
    // Hardly any temperature draws the best.
    assert_eq!(run(3, 1e-6)?, best);
    Ok(())
}
