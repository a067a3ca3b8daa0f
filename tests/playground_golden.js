/* The page's answer to each golden case: largest difference from the expected values, relative to their size where that is above 1. */
(cases) => {
  const array = (values) => Float64Array.from(values);
  const level = (sigma) => (Array.isArray(sigma) ? array(sigma) : sigma);
  const denoise = (denoiser, { x, sigma }) => denoiser.denoise(array(x), level(sigma), new Float64Array(x.length));
  const tape = (values) => {
    let at = 0;
    return (count) => array(values.slice(at, (at += count)));
  };
  const answers = {
    logProb: ({ density, x, sigma }) => ms.mixtureOf(MODESEEK_DATA, { density }).logProb(array(x), sigma),
    product: ({ density, centre, bandwidth, x, sigma }) =>
      ms.mixtureOf(MODESEEK_DATA, { density }).product(...centre, bandwidth).logProb(array(x), sigma),
    denoise: (one) => denoise(ms.denoiserOf(MODESEEK_DATA, one.settings), one),
    ideal: (one) => denoise(ms.empirical(array(one.points)), one),
    karras: ({ steps }) => ms.karras(steps),
    gradient: ({ method, settings, progress, x, noise }) => {
      const context = {
        denoiser: ms.denoiserOf(MODESEEK_DATA, settings), settings, progress,
        noise: { uniforms: tape(noise.uniforms), normals: tape(noise.normals) }, particles: array(x),
      };
      const { gradient, target } = ms.estimate(method, array(x), context);
      return [...gradient, ...target];
    },
    scores: ({ density, x, truth }) => {
      const { nll, outliers } = ms.likelihood(ms.mixtureOf(MODESEEK_DATA, { density }), array(x), MODESEEK_DATA.mixtures[density].highest);
      const { precision, coverage } = ms.precisionCoverage(array(x), array(truth), ms.ballRadii(array(truth)));
      return [nll, outliers, precision, coverage];
    },
    integrate: ({ field, n, spacing }) => {
      const { potential, curl } = ms.integrate(array(field), n, spacing);
      return [...potential, curl];
    },
  };
  return cases.map((one) => {
    const found = answers[one.kind](one);
    if (found.length !== one.expected.length) return [one.name, Infinity];
    let worst = 0;
    for (let i = 0; i < found.length; i++) {
      const difference = Math.abs(found[i] - one.expected[i]) / Math.max(1, Math.abs(one.expected[i]));
      worst = Math.max(worst, Number.isFinite(difference) ? difference : Infinity);
    }
    return [one.name, worst];
  });
}
