#!/bin/bash
# Bad input: every mistake ends with exit code 2 (wrong input) and a message that names the file or
# flag and says what would be right; a signal ends with 130.
set -u
failures=0

# expect CODE PATTERN COMMAND...: the exit code, and text that the output must have.
expect() {
  local code=$1 pattern=$2
  shift 2
  local output
  output=$("$@" 2>&1 < /dev/null)
  local actual=$?
  if [ "$actual" -ne "$code" ] || ! grep -qF -- "$pattern" <<< "$output"; then
    echo "FAILED: $* -> exit $actual (wanted $code), wanted text: $pattern"
    echo "$output" | head -5
    failures=$((failures + 1))
  fi
}

rm -rf run cache data q8 q8-again q4 mean
mkdir -p data
head -c 20000 "$SLUICE_ROOT/examples/long_document.txt" > data/text.txt
mkdir -p models/nano && cp "$SLUICE_ROOT/models/nano/tokenizer.json" models/nano
"$SLUICE" train --config "$SLUICE_ROOT/configs/tiny.json" --data data --cache cache --output run --last-step 2 --threads 1 > train.log 2>&1 ||
  { cat train.log; exit 1; }
model=run/model
ask=("$SLUICE" ask --no-table --max-tokens 4 --question "Who?")
doc=data/text.txt

# Flags.
expect 2 "subcommand" "$SLUICE"
expect 2 "--document" "$SLUICE" ask --question x
expect 2 "--question" "$SLUICE" ask --model $model --document $doc
expect 2 "bogus" "$SLUICE" info --bogus
expect 2 "thread" "$SLUICE" info --model $model --threads -3
expect 2 "--attention" "${ask[@]}" --model $model --document $doc --attention some
expect 2 "chunk" "${ask[@]}" --model $model --document $doc --chunk 5000
for share in 0 1 -0.1 1.5 nan; do
  expect 2 "--guarantee" "${ask[@]}" --model $model --document $doc --guarantee $share
done
expect 2 "--guarantee" "${ask[@]}" --model $model --document $doc --guarantee some
expect 2 "--guarantee" "${ask[@]}" --model $model --document $doc --guarantee 0.01 --attention dense
expect 2 "--guarantee" "$SLUICE" eval perplexity --model $model $doc --guarantee 0.01 --attention dense
expect 2 "temperature" "${ask[@]}" --model $model --document $doc --temperature nan
expect 2 "--top-k must be at least 1" "${ask[@]}" --model $model --document $doc --top-k 0
expect 2 "--top-k must be at least 1" "$SLUICE" eval gating --model $model $doc --top-k -5
expect 0 "Answer" "${ask[@]}" --model $model --document $doc --top-k 1000000000
expect 2 "gate mass must be above 0" "${ask[@]}" --model $model --document $doc --gate-mass 0
expect 2 "gate mass must be above 0" "$SLUICE" eval perplexity --model $model $doc --gate-mass 1.5
expect 2 "min keys" "${ask[@]}" --model $model --document $doc --gate-mass 0.9 --min-keys 0

# Sampling.
expect 2 "temperature must be finite and at least 0" "${ask[@]}" --model $model --document $doc --temperature -1
expect 2 "top-p must be above 0" "${ask[@]}" --model $model --document $doc --top-p 2
expect 2 "top-k must be at least 0" "${ask[@]}" --model $model --document $doc --sample-top-k -1
expect 2 "min-p must be from 0 to 1, not 1.5" "${ask[@]}" --model $model --document $doc --min-p 1.5
expect 2 "repetition penalty" "${ask[@]}" --model $model --document $doc --repetition-penalty 0
expect 2 "presence penalty" "${ask[@]}" --model $model --document $doc --presence-penalty nan
expect 2 "frequency penalty" "${ask[@]}" --model $model --document $doc --frequency-penalty -2.5
expect 2 "token 1000000 is outside" "${ask[@]}" --model $model --document $doc --logit-bias 1000000=1
for bias in 17 =1 17= 17=much 1.5=1 17=1=2 99999999999=1; do
  expect 2 "\"$bias\" is not TOKEN=BIAS" "${ask[@]}" --model $model --document $doc --logit-bias $bias
done
expect 2 "given twice" "${ask[@]}" --model $model --document $doc --logit-bias 17=1 --logit-bias 17=-inf
expect 2 "logprobs must be from 0 to 20, the number of likeliest tokens to list, not 21" \
  "${ask[@]}" --model $model --document $doc --logprobs 21
expect 3 "/dev/full" "$SLUICE" generate --model $model --prompt x --max-tokens 1 --json /dev/full/out.json

# Documents.
expect 2 "missing.txt" "${ask[@]}" --model $model --document missing.txt
: > empty.txt
expect 2 "empty.txt" "${ask[@]}" --model $model --document empty.txt
expect 2 "data" "${ask[@]}" --model $model --document data
expect 2 "--truncate" "${ask[@]}" --model $model --document "$SLUICE_ROOT/examples/long_document.txt"
expect 2 "8192 tokens" "${ask[@]}" --model $model --document "$SLUICE_ROOT/examples/long_document.txt"
expect 0 "only the first" "${ask[@]}" --model $model --document "$SLUICE_ROOT/examples/long_document.txt" --truncate
printf 'A fine text.\xff\xfe And more.' > invalid.txt
expect 0 "invalid UTF-8 at byte 12" "${ask[@]}" --model $model --document invalid.txt

# Model folders.
expect 2 "nowhere" "$SLUICE" info --model nowhere
damage() { rm -rf bad && cp -r $model bad; }
for file in config.json model.safetensors tokenizer.json; do
  damage && rm bad/$file
  expect 2 "bad/$file" "$SLUICE" info --model bad
  damage && truncate -s 100 bad/$file
  expect 2 "bad/$file" "$SLUICE" info --model bad
  damage && : > bad/$file
  expect 2 "bad/$file" "$SLUICE" info --model bad
done
damage && printf 'x' | dd of=bad/model.safetensors bs=1 seek=100000 conv=notrunc status=none
expect 2 "bad/model.safetensors" "$SLUICE" info --model bad
damage && sed -i 's/"hidden_size": 32/"hidden_size": 48/' bad/config.json
expect 2 "bad/model.safetensors" "$SLUICE" info --model bad
damage && sed -i 's/"top_k": 16/"top_k": -1/' bad/config.json
expect 2 "bad/config.json" "$SLUICE" info --model bad
damage && sed -i 's/"top_k": 16/"top_k": 0/' bad/config.json
expect 2 "bad/config.json" "$SLUICE" info --model bad
damage && echo '{"temperature": 1}' > bad/generation_config.json
expect 2 "bad/generation_config.json" "$SLUICE" info --model bad

# Evaluations and the tokenizer.
expect 2 "nothing.txt" "$SLUICE" eval perplexity --model $model nothing.txt
expect 2 "--context" "$SLUICE" eval perplexity --model $model $doc --context 1
expect 2 "100000" "$SLUICE" eval needle --model $model --haystack data --lengths 100000
expect 2 "--lengths" "$SLUICE" eval needle --model $model --haystack data --lengths 300
expect 2 "the longest has" "$SLUICE" eval gating --model $model $doc --length 8000
expect 2 "--selector" "$SLUICE" eval gating --model $model $doc --selector best
echo '{"context": "c", "question": "q", "choices": {"A": "x"}, "answer": "B"}' > choices.jsonl
expect 2 "choices.jsonl, line 1" "$SLUICE" eval gating --model $model choices.jsonl
expect 2 "nothing.txt" "$SLUICE" eval routing --model $model $doc nothing.txt
expect 2 "empty.txt" "$SLUICE" eval routing --model $model $doc empty.txt
printf x > letter.txt
expect 2 "letter: no document of two tokens" "$SLUICE" eval routing --model $model $doc letter.txt
expect 2 "--tokens must be at least 2" "$SLUICE" eval routing --model $model $doc --tokens 0
expect 2 "context of 8192 tokens" "$SLUICE" eval routing --model $model $doc --context 8193
expect 2 "--capacity-factor must be above 0" "$SLUICE" eval routing --model $model $doc --capacity-factor 0
expect 2 "--capacity-gamma-max" "$SLUICE" eval routing --model $model $doc --capacity-gamma-max nan
expect 3 "/dev/full" "$SLUICE" generate --model $model --prompt x --max-tokens 1 --expert-load /dev/full/load.json
expect 2 "missing" "$SLUICE" eval needle --model $model --haystack missing
expect 2 "--methods" "$SLUICE" bench attention --model $model --methods best
expect 2 "--lengths: 1 " "$SLUICE" bench attention --model $model --lengths 1
expect 2 "--top-k" "$SLUICE" bench attention --model $model --top-k 0
expect 2 "nowhere" "$SLUICE" bench attention --model nowhere
expect 2 "nowhere" "$SLUICE" bench --model nowhere
expect 2 "neither a file nor a built-in shape; there are m, m-g1" "$SLUICE" bench --shape large
expect 2 "$doc: not valid JSON" "$SLUICE" bench --shape $doc
expect 2 "--shape" "$SLUICE" bench --shape m --model $model
expect 2 "--weights requires --shape" "$SLUICE" bench --model $model --weights q8
expect 2 "--weights" "$SLUICE" bench --shape m --weights q3
expect 2 "--depths: -1 is negative" "$SLUICE" bench --model $model --depths 0,-1
expect 2 "do not fit the model's 8192" "$SLUICE" bench --model $model --depths 8K
expect 2 "--depths" "$SLUICE" bench --model $model --depths some
expect 2 "--prefill-tokens: 5000 is outside 0 to 4096" "$SLUICE" bench --model $model --prefill-tokens 5000
expect 2 "neither prefill nor decode tokens" "$SLUICE" bench --model $model --prefill-tokens 0 --decode-tokens 0
expect 2 "this machine has no target MMX; it has " "$SLUICE" bench --shape m --simd MMX
expect 2 "--repeats must be at least 1" "$SLUICE" bench --model $model --repeats 0
expect 2 "--repeats must be at least 1" "$SLUICE" bench load --model $model --repeats 0
expect 2 "nowhere" "$SLUICE" bench load --model nowhere
expect 2 "neither a file nor a built-in shape" "$SLUICE" bench random-model --shape nowhere --output made
sed 's/"vocab_size": [0-9]*/"vocab_size": 100/' $model/config.json > small.json
expect 2 "take a tokenizer of no more tokens" "$SLUICE" bench random-model --shape small.json --output made
expect 2 "data: exists already" "$SLUICE" bench random-model --shape m --tokenizer $model/tokenizer.json --output data
for threads in -1 2000; do
  expect 2 "the number of threads is $threads; it must be from 1 to 1024" "$SLUICE" bench --shape m --threads $threads
done
expect 2 "missing" "$SLUICE" tokenizer train --input missing --output t.json
expect 2 "vocab" "$SLUICE" tokenizer train --input data --output t.json --vocab-size 100
expect 3 "/dev/full" "$SLUICE" eval perplexity --model $model $doc --json /dev/full/out.json
expect 2 "gnuplot-nox" env PATH=/nonexistent "$SLUICE" eval perplexity --model $model $doc --plot out.svg

# Router profiles.
calibrate=("$SLUICE" calibrate --model $model --tokens 256 --held-out-tokens 512)
expect 2 "--name" "${calibrate[@]}" $doc
expect 2 "cannot name a router profile" "${calibrate[@]}" --name ../x $doc
expect 2 "are needed" "$SLUICE" calibrate --model $model --name law --tokens 1000000 $doc
expect 2 "--max-loss-rise" "${calibrate[@]}" --name law --max-loss-rise nan $doc
expect 2 "it has none" "$SLUICE" info --model $model --profile law
expect 0 "use it with --profile law" "${calibrate[@]}" --name law --max-loss-rise 1 $doc
expect 2 "--force" "${calibrate[@]}" --name law $doc
expect 0 "use it with --profile law" "${calibrate[@]}" --name law --max-loss-rise 1 --force $doc
expect 0 "law" "$SLUICE" info --model $model --profile law
expect 0 "Answer" "${ask[@]}" --model $model --document $doc --profile law
expect 2 "it has: law" "${ask[@]}" --model $model --document $doc --profile code
damage && truncate -s 100 bad/profiles/law.safetensors
expect 2 "law.safetensors" "$SLUICE" info --model bad --profile law

# Key codebooks.
fit=("$SLUICE" fit-codebooks --model $model --context 32 --max-stages 1)
expect 2 "files" "$SLUICE" fit-codebooks --model $model
expect 2 "no-such-text" "${fit[@]}" --tokens 64 no-such-text
expect 2 "--share" "${fit[@]}" --tokens 64 --share 0 $doc
expect 2 "more text, or lower --tokens" "${fit[@]}" --tokens 1000000 $doc
[ ! -e $model/key_codebooks.safetensors ] || { echo "an error left codebooks behind"; exit 1; }
expect 0 "written: $model/key_codebooks.safetensors" "${fit[@]}" --tokens 64 --share 0.2 $doc
expect 0 "keys read for the guarantee" "$SLUICE" ask --model $model --document $doc --question "Who?" \
  --max-tokens 4 --guarantee 0.1
damage && truncate -s 100 bad/key_codebooks.safetensors
expect 2 "key_codebooks.safetensors" "${ask[@]}" --model bad --document $doc
rm $model/key_codebooks.safetensors

# Quantised models.
quantize=("$SLUICE" quantize --model $model)
expect 2 "--output" "${quantize[@]}"
expect 2 "--format" "${quantize[@]}" --output q8 --format q3
expect 2 "nowhere" "$SLUICE" quantize --model nowhere --output q8
expect 2 "PATTERN=FORMAT" "${quantize[@]}" --output q4 --tensor q_proj
expect 2 "is no format" "${quantize[@]}" --output q4 --tensor '*=q5'
expect 2 "no matrix of this model" "${quantize[@]}" --output q4 --tensor 'lm_head.*=q8'
expect 2 "no-such-text" "${quantize[@]}" --output q4 --calibrate no-such-text
expect 2 "--tokens must be" "${quantize[@]}" --output q4 --calibrate $doc --tokens 1
expect 2 "more text, or lower --tokens" "${quantize[@]}" --output q4 --calibrate $doc --tokens 1000000
[ ! -e q4 ] || { echo "an error left a model behind"; exit 1; }
expect 0 " q4 " "${quantize[@]}" --output q4 --format q4 --tensor '*.o_proj.*=q8' --calibrate $doc --tokens 64 \
  --context 32
expect 0 "q4 " "$SLUICE" info --model q4
expect 0 "Answer" "${ask[@]}" --model q4 --document $doc
expect 3 "cannot make the folder" "${quantize[@]}" --output /proc/q8
expect 0 "use it with --model q8" "${quantize[@]}" --output q8
expect 2 "q8: exists already" "${quantize[@]}" --output q8
expect 2 "quantised already" "$SLUICE" quantize --model q8 --output q8-again
expect 2 "one model has no mean" "$SLUICE" average $model --output mean
expect 2 "exists already" "$SLUICE" average $model $model --output $model
expect 2 "nowhere" "$SLUICE" average $model nowhere --output mean
expect 2 "q8: has quantised weights" "$SLUICE" average q8 q8 --output mean
expect 0 "the mean of 2 models" "$SLUICE" average $model $model --output mean
expect 0 "Answer" "${ask[@]}" --model mean --document $doc
expect 0 "q8 " "$SLUICE" info --model q8 --profile law
expect 0 "Answer" "${ask[@]}" --model q8 --document $doc
expect 2 "cannot be trained" "$SLUICE" train --config "$SLUICE_ROOT/configs/tiny.json" --data data --cache cache \
  --output run2 --init q8
cp q8/model.safetensors $model/quantised.tmp && damage && mv bad/quantised.tmp bad/model.safetensors
rm $model/quantised.tmp
expect 2 "floats are asked for" "$SLUICE" info --model bad
damage && cp q8/config.json bad/config.json
expect 2 "bad/model.safetensors" "$SLUICE" info --model bad

# Ctrl-C while a document is read. timeout sends the signal twice, to its child and to their group.
for _ in $(seq 200); do cat data/text.txt; done > long.txt
timeout --preserve-status -s INT 2 "$SLUICE" eval perplexity --model $model long.txt --context 8192 --attention dense \
  > interrupted.log 2>&1
code=$?
if [ $code -ne 130 ] || ! grep -q "interrupted" interrupted.log; then
  echo "FAILED: Ctrl-C -> exit $code"
  cat interrupted.log
  failures=$((failures + 1))
fi

[ $failures -eq 0 ] && echo "all bad input was refused clearly"
exit $((failures > 0))
