// attend_scores: what happens to a score before the softmax, and the exponential of the softmax. Drivers may lose a NaN in
// a maximum, a clamp or an exponential; here none does.

fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

fn exp_or_nan(x: f32) -> f32 {
    return select(exp(x), x, is_nan(x));
}

fn capped(score: f32) -> f32 {
    if CAPPED {
        // The hyperbolic tangent is 1 from far below 15 on; some drivers overflow beyond.
        let part = score / params.softcap;
        return select(params.softcap * tanh(clamp(part, -15.0, 15.0)), part, is_nan(part));
    }
    return score;
}
