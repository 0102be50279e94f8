"""What the Learn page says, paragraph by paragraph."""

LATENT_SPACE = (
    "The model does not paint pixels. It works on latents, a small grid of numbers, and a decoder turns the "
    "finished grid into a picture at the very end. A grid has several channels; none of them needs to be a colour.",
    "Because the grid is small, a step is cheap; and because decoding comes last, everything a scheduler does "
    "happens before there is a picture at all.",
)
FORMING = (
    "A run starts from pure noise. At each call the denoiser looks at the noisy latents and guesses the clean ones:"
    " the clean estimate, x0. The scheduler takes a step towards it, to a lower noise level, and asks again.",
    "The estimate is blurred at first: with so much noise many pictures are possible, and the guess is their average.",
)
GUIDANCE = (
    "The denoiser is asked twice at each call: once with the prompt and once without. The difference between the "
    "two answers points towards the prompt, and the guidance scale w says how far to go along it: `answer = without"
    " + w × (with − without)`. At w = 1 the plain answer remains and one question is enough.",
    "A larger w follows the prompt more closely, with more contrast and less variety. It also makes the path harder"
    " to follow, so that solvers of high order need more steps. All lanes of a study have the same w.",
)
SOLVERS = (
    "From noise to picture there is a path, and the denoiser tells its direction at any point. A scheduler chooses "
    "at which noise levels to ask, and how to go on from the answers: it is a solver of a differential equation. A "
    "first-order solver (DDIM, Euler) goes straight on; a second-order one (DPM++ 2M, UniPC, Heun) also uses how "
    "the direction has changed, and keeps closer to the path with the same number of calls.",
    "With enough calls all of them reach the same picture: the converged solution. Ancestral and SDE schedulers add"
    " new noise on the way and lead to other pictures, not to worse ones.",
)
CALLS = (
    "The cost of a run is how often the denoiser is called: the number of function evaluations, NFE. Many "
    "schedulers call it once a step, but Heun and DPM2 call it twice, and PNDM once more than it has steps. "
    "Comparing step counts flatters those; comparing NFE, or measured time, does not. This lab counts the calls at "
    "the denoiser.",
)
ONE_SCALE = (
    "it has this prompt and seed under one guidance scale only. The same study under another name adds one, for "
    "example `python -m engine run STUDY --set guidance_scale=5 --set name={name}-5`."
)
