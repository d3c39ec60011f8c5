// attend_scores: what happens to a score before the softmax: the cap, then the mask.

fn capped(score: f32) -> f32 {
    if CAPPED {
        // The hyperbolic tangent is 1 from far below 15 on; some drivers overflow beyond.
        return params.softcap * tanh(clamp(score / params.softcap, -15.0, 15.0));
    }
    return score;
}
