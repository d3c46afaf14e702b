#!/bin/bash
# The same request gives the same answer: with 1 and 2 threads, with the document read whole or in
# chunks, alone or after other questions, and for a repeated seed. Reports are written where asked.
set -eu

rm -rf run cache data q8 q8-again ./*.cache
mkdir -p data
head -c 12000 "$SLUICE_ROOT/examples/long_document.txt" > data/text.txt
mkdir -p models/nano && cp "$SLUICE_ROOT/models/nano/tokenizer.json" models/nano
"$SLUICE" train --config "$SLUICE_ROOT/configs/tiny.json" --data data --cache cache --output run --last-step 2 \
  --threads 1 > train.log 2>&1
ask() { "$SLUICE" ask --model run/model --document data/text.txt --no-table --max-tokens 24 "$@" 2> /dev/null; }

ask --question "Who is it?" --threads 1 > wanted.txt
for flags in "--threads 2" "--chunk 17" "--chunk 128" "--chunk 4096 --threads 2"; do
  # shellcheck disable=SC2086
  ask --question "Who is it?" $flags > actual.txt
  cmp wanted.txt actual.txt || { echo "the answer differs with $flags"; exit 1; }
done
ask --question "What is the lock code of the strongbox?" --question "Who is it?" | tail -n "$(wc -l < wanted.txt)" > actual.txt
cmp wanted.txt actual.txt || { echo "the answer differs behind another question"; exit 1; }

# A document that an earlier run has read: the same answers, in every format, and nothing read again.
for format in f32 bf16 int8; do
  ask --question "Who is it?" --cache-format $format > wanted.txt
  for run in first second; do
    ask --question "Who is it?" --cache-format $format --cache $format.cache --json $run.json > actual.txt
    cmp wanted.txt actual.txt || { echo "the answer differs with --cache, $format, in the $run run"; exit 1; }
  done
  computed() { grep 'prefill_tokens"' "$1" | tr -dc 0-9; }
  [ "$(computed second.json)" -lt 100 ] && [ "$(computed first.json)" -gt 1000 ] ||
    { echo "the second run read $(computed second.json) tokens, the first $(computed first.json)"; exit 1; }
done
! ask --question "Who is it?" --cache int8.cache > actual.txt ||
  { echo "a cache in another format was taken"; exit 1; }

ask --question "Who is it?" --attention dense > wanted.txt
ask --question "Who is it?" --guarantee 0.000001 > actual.txt
cmp wanted.txt actual.txt || { echo "a guarantee near 0 does not answer as dense attention does"; exit 1; }

generate() { "$SLUICE" generate --model run/model --prompt "It is a truth" --temperature 1.2 --max-tokens 30 "$@" 2> /dev/null; }
generate --seed 3 --threads 1 > wanted.txt
generate --seed 3 --threads 2 --chunk 1 > actual.txt
cmp wanted.txt actual.txt || { echo "the same seed gives another text"; exit 1; }
generate --seed 4 > actual.txt
! cmp -s wanted.txt actual.txt || { echo "another seed gives the same text"; exit 1; }

cuts=(--sample-top-k 500 --top-p 0.99 --min-p 0.01 --repetition-penalty 1.1 --presence-penalty 0.2
  --frequency-penalty 0.2 --logit-bias 300=1.5)
generate --seed 3 --threads 1 "${cuts[@]}" --logprobs 2 --json wanted.json > wanted.txt
generate --seed 3 --threads 2 "${cuts[@]}" --logprobs 2 --json actual.json --chunk 1 > actual.txt
cmp wanted.txt actual.txt || { echo "the same seed gives another text under penalties and cuts"; exit 1; }
for file in wanted actual; do grep -v _per_second $file.json > $file.txt; done
cmp wanted.txt actual.txt || { echo "the same seed gives other logprobs"; exit 1; }
[ "$(grep -c '"top_logprobs"' wanted.json)" -eq "$(sed -n 's/.*"tokens": \([0-9]*\).*/\1/p' wanted.json)" ]
"$SLUICE" generate --model run/model --prompt "It is" --max-tokens 9 --logit-bias 300=100 --logprobs 2 2>&1 > all.txt |
  grep "^[^ ].* 300 " > forced.txt
[ "$(wc -l < forced.txt)" -eq 9 ] || { echo "a bias of 100 does not force a token"; exit 1; }
ask --question "Who?" --logprobs 1 --json ask.json | grep -q "logprob  probability"
grep -q '"top_logprobs"' ask.json

"$SLUICE" quantize --model run/model --output q8 2> /dev/null | grep -q "model.embed_tokens.weight.* q8 "
"$SLUICE" quantize --model run/model --output q8-again --threads 1 > /dev/null 2>&1
cmp q8/model.safetensors q8-again/model.safetensors
ask8() { "$SLUICE" ask --model q8 --document data/text.txt --no-table --max-tokens 24 --question "Who is it?" "$@" 2> /dev/null; }
ask8 --threads 1 > wanted.txt
for flags in "--threads 2" "--chunk 17" "--chunk 4096 --threads 2"; do
  # shellcheck disable=SC2086
  ask8 $flags > actual.txt
  cmp wanted.txt actual.txt || { echo "the answer of 8-bit weights differs with $flags"; exit 1; }
done

"$SLUICE" ask --model run/model --document data/text.txt --question "Who?" --json ask.json > ask.txt 2> /dev/null
grep -q "key-value cache" ask.txt
grep -q '"retained_mass_of_oracle"' ask.json
"$SLUICE" ask --model run/model --document data/text.txt --question "Who?" --guarantee 0.5 --json proved.json > ask.txt 2> /dev/null
grep -q "attention left unread" ask.txt
grep -q '"share_of_keys_read"' proved.json
"$SLUICE" generate --model run/model --prompt "It is a truth" --max-tokens 4 --guarantee 0.5 2>&1 | grep -q "guarantee 0.5: "
"$SLUICE" eval perplexity --model run/model data/text.txt --guarantee 0.5 --attention both --context 1024 | grep -q "guarantee 0.5: "
"$SLUICE" eval perplexity --model run/model data/text.txt --attention both --context 1024 --json ppl.json --plot ppl.svg
grep -q '"sparse_to_dense"' ppl.json
grep -q "</svg>" ppl.svg
"$SLUICE" eval needle --model run/model --haystack data --lengths 4096 --needles 10 --distractors 1 --json needle.json \
  --plot needle.svg
grep -q '"by_depth"' needle.json
"$SLUICE" eval needle --model run/model --haystack data --lengths 4096 --needles 10 --distractors 1 --guarantee 0.5 |
  grep -q "guarantee 0.5: "
grep -q "</svg>" needle.svg
"$SLUICE" eval gating --model run/model --length 2048 --scored 64 --queries 4 --selector gate,recent data/text.txt |
  grep -q "recent"
"$SLUICE" eval gating --model run/model data/text.txt --length 2048 --scored 64 --queries 4 --json gating.json \
  --plot gating.svg | grep -q "oracle"
grep -q '"worst_layer"' gating.json
grep -q "</svg>" gating.svg
"$SLUICE" bench attention --model run/model --lengths 64,2048 --csv bench.csv --json bench.json --plot bench.svg | grep -q "dense"
grep -q "^flat,2048," bench.csv
grep -q '"prefill_estimated"' bench.json
grep -q "</svg>" bench.svg
"$SLUICE" tokenizer train --input data --vocab-size 300 --output tokenizer.json
grep -q "<|document|>" tokenizer.json
"$SLUICE" info --model run/model --tensors | grep -q "model.embed_tokens.weight"
echo "same request, same answer"
