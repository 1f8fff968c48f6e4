"""Batches of distinct words, changed as microphones, rooms and people would change them."""

import torch
import torchaudio
from torch.nn import functional

from speechcl.backbones.audio_text import RATE_HZ, tokenise
from speechcl.data.spoken_words import SpokenWords

BANDS, BINS, HOP = 40, 129, 80
LONGEST_S = 1.0  # of the clip with the silence around it
GAP_S = 0.12  # between the words of a pair
PAIRS = 0.2  # share of two words in one clip, so that a longer name is its parts in order
CUT = 0.06  # share of a clip that is cut off at each end
WARP = 0.15  # of the frequency axis: throats differ in length
WARPS = 8  # a batch
TEMPO = 0.25  # of its logarithm
DECAY_S = (0.05, 0.3)  # of a room, to -60 dB
ROOM_DB = (2.0, 15.0)  # what the room answers, below the clip
DECAY_FRAMES = 32
TILT_DB = 4.0  # an octave
NOISE_DB = (0.0, 40.0)  # below the clip
NOISE_TILT_DB = (-8.0, 1.0)
VOICE_DB = (8.0, 30.0)  # another clip, below the clip
GAIN_DB = (-25.0, 0.0)
MASK = 7  # bands and frames, fewer than


class WordBatches:
    """Draws batches of features and names; what is drawn depends on the seed alone.

    Arguments
    ---------
    clips : SpokenWords
        Several of each word.
    size : int
        Words a batch, all of them different; a fifth of the clips holds a second one.
    seed : int
        Decides everything.
    """

    def __init__(self, clips: SpokenWords, size: int, seed: int) -> None:
        if size + round(PAIRS * size) > len(clips.words):
            raise ValueError(
                f"batch_size is {size} but there are {len(clips.words)} words: "
                "all words of a batch must differ"
            )
        self.clips, self.size = clips, size
        self.each = len(clips) // len(clips.words)
        self.tokens = tokenise(clips.words)
        self.space = int(tokenise(["a a"])[0, 1])
        self.chance = torch.Generator().manual_seed(seed)
        self.spectrum = torchaudio.transforms.Spectrogram(
            2 * (BINS - 1), 200, HOP, power=2.0, pad_mode="constant"
        )

    def draw(self):
        """Return features (batch, frames, 40), padded with zeros, and names (batch, sounds)."""
        order = torch.randperm(len(self.clips.words), generator=self.chance).tolist()
        seconds = order[self.size : self.size + round(PAIRS * self.size)]
        spoken = [[word] for word in order[: self.size]]
        for words, second in zip(spoken, seconds, strict=False):
            words.append(second)
        waveforms = [self._waveform(words) for words in spoken]
        frames = torch.tensor([len(one) // HOP + 1 for one in waveforms])
        padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
        power = self._bands(self.spectrum(padded).transpose(1, 2))
        power = self._surroundings(self._colour(self._room(power)), frames)
        features, frames = self._tempo((power + 1e-6).log(), frames)
        features = self._mask(features, frames)
        real = torch.arange(features.shape[1]) < frames[:, None]
        return features * real[..., None], self._names(spoken)

    def _uniform(self, low, high, *shape):
        return low + (high - low) * torch.rand(*shape, generator=self.chance)

    def _sometimes(self, share):
        """Return a column of ones and zeros, one a clip."""
        return (torch.rand(self.size, 1, generator=self.chance) < share).float()

    def _waveform(self, words):
        pieces = []
        for word in words:
            take = int(torch.randint(self.each, (), generator=self.chance))
            clip = self.clips[word * self.each + take]
            head, tail = (self._uniform(0, CUT, 2) * len(clip)).int().tolist()
            pieces += [torch.zeros(int(self._uniform(0, GAP_S, ()) * RATE_HZ))] if pieces else []
            pieces.append(clip[head : len(clip) - tail])
        spoken = torch.cat(pieces) * 10 ** (self._uniform(*GAIN_DB, ()) / 20)
        room = max(0, int(LONGEST_S * RATE_HZ) - len(spoken))
        silence = int(self._uniform(0, room, ()))
        before = int(self._uniform(0, silence, ()))
        return functional.pad(spoken, (before, silence - before))

    def _names(self, spoken):
        rows = []
        for words in spoken:
            parts = [self.tokens[word][self.tokens[word] > 0] for word in words]
            joined = [part for word in parts for part in (torch.tensor([self.space]), word)]
            rows.append(torch.cat(joined[1:]))
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def _bands(self, power):
        """Turn a power spectrum into bands, on a frequency axis stretched for each group."""
        bands = torch.empty(*power.shape[:2], BANDS)
        for group in range(WARPS):
            bank = warped_bank(float(self._uniform(1 - WARP, 1 + WARP, ())))
            bands[group::WARPS] = power[group::WARPS] @ bank
        return bands

    def _room(self, power):
        """Let what was heard fade out slowly, in some clips."""
        lag = torch.arange(DECAY_FRAMES) * HOP / RATE_HZ
        answer = 10 ** (-6 * lag / self._uniform(*DECAY_S, self.size, 1))
        share = self._sometimes(0.4) * 10 ** (-self._uniform(*ROOM_DB, self.size, 1) / 10)
        answer = answer * share / answer[:, 1:].sum(1, keepdim=True)
        answer[:, 0] = 1
        frame = torch.arange(power.shape[1])
        behind = frame[:, None] - frame
        known = (behind >= 0) & (behind < DECAY_FRAMES)
        return (answer[:, behind.clamp(0, DECAY_FRAMES - 1)] * known) @ power

    def _colour(self, power):
        """Tilt the spectrum and cut its ends off, as a narrow channel does."""
        tilt = self._uniform(-TILT_DB, TILT_DB, self.size, 1)
        top = self._uniform(2800, 4000, self.size, 1) / self._sometimes(0.5)
        bottom = self._uniform(30, 300, self.size, 1) * self._sometimes(0.5) + 1e-3
        over, under = (ratio.log2().clamp_min(0) for ratio in (CENTRES / top, bottom / CENTRES))
        return power * 10 ** ((tilt * OCTAVES - 96 * over - 12 * under) / 10)[:, None]

    def _surroundings(self, power, frames):
        """Add coloured noise, and in some clips another voice."""
        loudness = power.sum((1, 2)) / frames
        colour = 10 ** (self._uniform(*NOISE_TILT_DB, self.size, 1) * OCTAVES / 10) * WIDTHS
        colour = colour / colour.sum(1, keepdim=True)
        level = loudness[:, None] * 10 ** (-self._uniform(*NOISE_DB, self.size, 1) / 10)
        noise = (0.5 * torch.randn(power.shape, generator=self.chance)).exp()
        late = int(torch.randint(power.shape[1], (), generator=self.chance))
        other = (power / loudness[:, None, None]).roll((1, late), dims=(0, 1))
        voice_db = self._uniform(*VOICE_DB, self.size, 1)
        voice = loudness[:, None] * self._sometimes(0.3) * 10 ** (-voice_db / 10)
        return power + noise * (level * colour)[:, None] + other * voice[..., None]

    def _tempo(self, features, frames):
        """Stretch or squeeze time."""
        speed = self._uniform(-TEMPO, TEMPO, self.size).exp()
        frames = (frames / speed).long().clamp_min(2)
        at = torch.arange(int(frames.max())) * speed[:, None]
        last = features.shape[1] - 1
        left, share = at.long().clamp(max=last), (at - at.floor())[..., None]
        rows = torch.arange(self.size)[:, None]
        after = features[rows, (left + 1).clamp(max=last)]
        return features[rows, left] * (1 - share) + after * share, frames

    def _mask(self, features, frames):
        """Hide some bands and some frames."""
        hidden = self._stretch(torch.full((self.size,), BANDS), BANDS)[:, None]
        hidden = hidden | self._stretch(frames, features.shape[1])[..., None]
        return torch.where(hidden, features.mean((1, 2), keepdim=True), features)

    def _stretch(self, sizes, places):
        start = self._uniform(0, 1, self.size) * sizes
        width = torch.randint(MASK, (self.size,), generator=self.chance)
        place = torch.arange(places)
        return (place >= start[:, None]) & (place < (start + width)[:, None])


def warped_bank(stretch):
    """Return mel filters (bins, bands) of which each looks at ``stretch`` times lower frequencies.

    Source: Jaitly and Hinton, "Vocal tract length perturbation (VTLP) improves speech recognition",
    ICML workshop 2013. Deviates: the whole axis is stretched, not its lower part.
    """
    bank = torchaudio.functional.melscale_fbanks(
        BINS, 0.0, RATE_HZ / 2, BANDS, RATE_HZ, norm=None, mel_scale="htk"
    )
    at = torch.arange(BINS) * stretch
    low, share = at.long().clamp(max=BINS - 1), (at - at.floor())[:, None]
    high = (low + 1).clamp(max=BINS - 1)
    return (bank[low] * (1 - share) + bank[high] * share) * (at < BINS)[:, None]


_BANK = warped_bank(1.0)
WIDTHS = _BANK.sum(0)
CENTRES = (_BANK * torch.linspace(0, RATE_HZ / 2, BINS)[:, None]).sum(0) / WIDTHS
OCTAVES = (CENTRES / 1000).log2()
