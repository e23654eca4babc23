# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Completion of pregate for bash; made by tools/completion.py of --help, do not edit.

_pregate()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} options='' words='' files=''
    COMPREPLY=()
    # Bash cuts --name=value into three words.
    if [ "$cur" = = ]; then
        cur=''
    elif [ "$prev" = = ]; then
        prev=${COMP_WORDS[COMP_CWORD-2]}
    fi
    if [ "$COMP_CWORD" = 1 ] || { [ "$COMP_CWORD" = 2 ] && [ "${COMP_WORDS[1]}" = help ]; }; then
        mapfile -t COMPREPLY < <(compgen -W 'run chat serve bench inspect plan tokenize logits synth convert quantize pack sidecar tune eval train load replay help --help --version' -- "$cur")
        return
    fi
    case ${COMP_WORDS[1]} in
    run)
        options='--model --prompt --file --n-predict --routes --memory --mode --slots --pregate --evict --hints --cache-bias --cache-margin --lookahead --extra --ctx --capacity --experts --source --batch --threads --kv --io --cpu --temp --top-k --top-p --min-p --repeat-penalty --presence-penalty --frequency-penalty --repeat-last-n --beams --seed --grammar --json-schema --ignore-eos --special --echo --json --routes-out --trace --verbose --help' files=1
        ;;
    chat)
        options='--model --n-predict --system --chat-template --think --no-think --memory --mode --slots --pregate --evict --hints --cache-bias --cache-margin --lookahead --extra --ctx --experts --batch --threads --kv --io --cpu --temp --top-k --top-p --min-p --repeat-penalty --presence-penalty --frequency-penalty --repeat-last-n --seed --grammar --json-schema --verbose --help' files=1
        ;;
    serve)
        options='--model --chat-template --memory --mode --slots --pregate --evict --hints --cache-bias --cache-margin --lookahead --extra --ctx --capacity --experts --batch --threads --kv --io --cpu --host --port --parallel --kv-tokens --api-key --names --cors-origins --no-webui --drain-timeout --alias --itl-ms --prompt-cache --prompt-cache-size --verbose --help' files=1
        ;;
    bench)
        options='--model --n-prompt --n-decode --file --reps --parallel --steady --modes --memory --evict --routes --format --slots --pregate --hints --cache-bias --cache-margin --lookahead --extra --ctx --capacity --experts --source --batch --threads --kv --io --cpu --seed --no-measure --verbose --help' files=1
        ;;
    inspect)
        options='--model --keys --tensors --json --verbose --help' files=1
        ;;
    plan)
        options='--model --modes --routes --memory --mode --slots --pregate --evict --hints --cache-bias --cache-margin --lookahead --extra --ctx --capacity --experts --source --batch --threads --kv --cpu --seed --no-measure --simulate --batches --steps --cache --active --active-source --right --type --json --verbose --help' files=1
        ;;
    tokenize)
        options='--model --prompt --file --special --verbose --help' files=1
        ;;
    logits)
        options='--model --tokens --decoder-tokens --memory --mode --slots --pregate --evict --hints --cache-bias --cache-margin --lookahead --extra --ctx --capacity --experts --batch --threads --kv --io --cpu --out --verbose --help' files=1
        ;;
    synth)
        options='--seed --type --layers --list --out --verbose --help'
        ;;
    convert)
        options='--threads --type --pack --out --verbose --help' files=1
        ;;
    quantize)
        options='--model --threads --type --experts-only --pack --out --verbose --help' files=1
        ;;
    pack)
        options='--model --threads --undo --out --verbose --help' files=1
        ;;
    sidecar)
        options='--model --level --out --verbose --help' files=1
        ;;
    tune)
        options='--model --threads --seed --data --loss --from --steps --batch --lr --eval-every --sticky --sticky-cache --cache-bias --cache-margin --weigher --runners-up --imitate --kl --checkpoint-every --for --level --hidden --tokens --holdout --ctx --memory --resume --out --json --verbose --help' files=1
        ;;
    eval)
        options='--model --memory --mode --slots --pregate --evict --hints --cache-bias --cache-margin --lookahead --extra --ctx --capacity --experts --source --batch --threads --kv --io --cpu --task --data --max --windows --n-predict --json --routes-out --predictions --verbose --help' files=1
        ;;
    train)
        options='--model --threads --seed --data --gate --level --from --steps --batch --recipe --accumulate --lr --schedule --lr-end --warmup --weight-decay --dropout --clip --balance --sticky --sticky-cache --cache-bias --cache-margin --weigher --runners-up --imitate --kl --freeze --type --checkpoint-every --resume --csv --svg --out --json --verbose --help' files=1
        ;;
    load)
        options='--prompt --seed --ignore-eos --prompts --shuffle --clients --rate --duration --requests --warmup --max-tokens --chat --completions --model --temp --api-key --timeout --metrics --json --out --svg --verbose --help'
        ;;
    replay)
        options='--slots --ratio --split --format --json --verbose --help' files=1
        ;;
    *) return ;;
    esac
    # What the option before the cursor takes: one of these words, a file, or what nobody can guess.
    case ${COMP_WORDS[1]}:$prev in
    run:--mode) words='auto resident ondemand prefetch-all lookahead hint pregate' ;;
    run:--evict) words='cycle lru lfu lifo random' ;;
    run:--hints) words='auto on off' ;;
    run:--kv) words='f16 f32' ;;
    run:--io) words='auto uring pread' ;;
    run:--cpu) words='auto ref avx2 avx512 neon' ;;
    run:-m | run:--model | run:-f | run:--file | run:--routes | run:--pregate | run:--grammar | run:-j | run:--json-schema | run:--routes-out | run:--trace) files=1 ;;
    run:-p | run:--prompt | run:-n | run:--n-predict | run:--memory | run:--slots | run:--cache-bias | run:--cache-margin | run:--lookahead | run:--extra | run:-c | run:--ctx | run:--capacity | run:--experts | run:--source | run:-b | run:--batch | run:-t | run:--threads | run:--temp | run:--top-k | run:--top-p | run:--min-p | run:--repeat-penalty | run:--presence-penalty | run:--frequency-penalty | run:--repeat-last-n | run:--beams | run:-s | run:--seed) return ;;
    chat:--mode) words='auto resident ondemand prefetch-all lookahead hint pregate' ;;
    chat:--evict) words='cycle lru lfu lifo random' ;;
    chat:--hints) words='auto on off' ;;
    chat:--kv) words='f16 f32' ;;
    chat:--io) words='auto uring pread' ;;
    chat:--cpu) words='auto ref avx2 avx512 neon' ;;
    chat:-m | chat:--model | chat:--chat-template | chat:--pregate | chat:--grammar | chat:-j | chat:--json-schema) files=1 ;;
    chat:-n | chat:--n-predict | chat:--system | chat:--memory | chat:--slots | chat:--cache-bias | chat:--cache-margin | chat:--lookahead | chat:--extra | chat:-c | chat:--ctx | chat:--experts | chat:-b | chat:--batch | chat:-t | chat:--threads | chat:--temp | chat:--top-k | chat:--top-p | chat:--min-p | chat:--repeat-penalty | chat:--presence-penalty | chat:--frequency-penalty | chat:--repeat-last-n | chat:-s | chat:--seed) return ;;
    serve:--mode) words='auto resident ondemand prefetch-all lookahead hint pregate' ;;
    serve:--evict) words='cycle lru lfu lifo random' ;;
    serve:--hints) words='auto on off' ;;
    serve:--kv) words='f16 f32' ;;
    serve:--io) words='auto uring pread' ;;
    serve:--cpu) words='auto ref avx2 avx512 neon' ;;
    serve:-m | serve:--model | serve:--chat-template | serve:--pregate | serve:--api-key | serve:--prompt-cache) files=1 ;;
    serve:--memory | serve:--slots | serve:--cache-bias | serve:--cache-margin | serve:--lookahead | serve:--extra | serve:-c | serve:--ctx | serve:--capacity | serve:--experts | serve:-b | serve:--batch | serve:-t | serve:--threads | serve:--host | serve:--port | serve:--parallel | serve:--kv-tokens | serve:--names | serve:--cors-origins | serve:--drain-timeout | serve:--alias | serve:--itl-ms | serve:--prompt-cache-size) return ;;
    bench:--hints) words='auto on off' ;;
    bench:--kv) words='f16 f32' ;;
    bench:--io) words='auto uring pread' ;;
    bench:--cpu) words='auto ref avx2 avx512 neon' ;;
    bench:-m | bench:--model | bench:-f | bench:--file | bench:--routes | bench:--pregate) files=1 ;;
    bench:-p | bench:--n-prompt | bench:-n | bench:--n-decode | bench:-r | bench:--reps | bench:--parallel | bench:--modes | bench:--memory | bench:--evict | bench:-o | bench:--format | bench:--slots | bench:--cache-bias | bench:--cache-margin | bench:--lookahead | bench:--extra | bench:-c | bench:--ctx | bench:--capacity | bench:--experts | bench:--source | bench:-b | bench:--batch | bench:-t | bench:--threads | bench:-s | bench:--seed) return ;;
    inspect:-m | inspect:--model) files=1 ;;
    plan:--mode) words='auto resident ondemand prefetch-all lookahead hint pregate' ;;
    plan:--evict) words='cycle lru lfu lifo random' ;;
    plan:--hints) words='auto on off' ;;
    plan:--kv) words='f16 f32' ;;
    plan:--cpu) words='auto ref avx2 avx512 neon' ;;
    plan:-m | plan:--model | plan:--routes | plan:--pregate | plan:--simulate) files=1 ;;
    plan:--modes | plan:--memory | plan:--slots | plan:--cache-bias | plan:--cache-margin | plan:--lookahead | plan:--extra | plan:-c | plan:--ctx | plan:--capacity | plan:--experts | plan:--source | plan:-b | plan:--batch | plan:-t | plan:--threads | plan:-s | plan:--seed | plan:--batches | plan:--steps | plan:--cache | plan:--active | plan:--active-source | plan:--right | plan:--type) return ;;
    tokenize:-m | tokenize:--model | tokenize:-f | tokenize:--file) files=1 ;;
    tokenize:-p | tokenize:--prompt) return ;;
    logits:--mode) words='auto resident ondemand prefetch-all lookahead hint pregate' ;;
    logits:--evict) words='cycle lru lfu lifo random' ;;
    logits:--hints) words='auto on off' ;;
    logits:--kv) words='f16 f32' ;;
    logits:--io) words='auto uring pread' ;;
    logits:--cpu) words='auto ref avx2 avx512 neon' ;;
    logits:-m | logits:--model | logits:--pregate | logits:-o | logits:--out) files=1 ;;
    logits:--tokens | logits:--decoder-tokens | logits:--memory | logits:--slots | logits:--cache-bias | logits:--cache-margin | logits:--lookahead | logits:--extra | logits:-c | logits:--ctx | logits:--capacity | logits:--experts | logits:-b | logits:--batch | logits:-t | logits:--threads) return ;;
    synth:-o | synth:--out) files=1 ;;
    synth:-s | synth:--seed | synth:--type | synth:--layers) return ;;
    convert:-o | convert:--out) files=1 ;;
    convert:-t | convert:--threads | convert:--type) return ;;
    quantize:-m | quantize:--model | quantize:-o | quantize:--out) files=1 ;;
    quantize:-t | quantize:--threads | quantize:--type) return ;;
    pack:-m | pack:--model | pack:-o | pack:--out) files=1 ;;
    pack:-t | pack:--threads) return ;;
    sidecar:-m | sidecar:--model | sidecar:-o | sidecar:--out) files=1 ;;
    sidecar:--level) return ;;
    tune:--loss) words='routers lm' ;;
    tune:--weigher) words='router pregate' ;;
    tune:--for) words='hint decide' ;;
    tune:-m | tune:--model | tune:--data | tune:--from | tune:-o | tune:--out) files=1 ;;
    tune:-t | tune:--threads | tune:-s | tune:--seed | tune:--steps | tune:-b | tune:--batch | tune:--lr | tune:--eval-every | tune:--sticky | tune:--sticky-cache | tune:--cache-bias | tune:--cache-margin | tune:--runners-up | tune:--imitate | tune:--kl | tune:--checkpoint-every | tune:--level | tune:--hidden | tune:--tokens | tune:--holdout | tune:-c | tune:--ctx | tune:--memory) return ;;
    eval:--mode) words='auto resident ondemand prefetch-all lookahead hint pregate' ;;
    eval:--evict) words='cycle lru lfu lifo random' ;;
    eval:--hints) words='auto on off' ;;
    eval:--kv) words='f16 f32' ;;
    eval:--io) words='auto uring pread' ;;
    eval:--cpu) words='auto ref avx2 avx512 neon' ;;
    eval:--task) words='ppl agree qa summarize' ;;
    eval:-m | eval:--model | eval:--pregate | eval:--data | eval:--routes-out | eval:--predictions) files=1 ;;
    eval:--memory | eval:--slots | eval:--cache-bias | eval:--cache-margin | eval:--lookahead | eval:--extra | eval:-c | eval:--ctx | eval:--capacity | eval:--experts | eval:--source | eval:-b | eval:--batch | eval:-t | eval:--threads | eval:--max | eval:-n | eval:--n-predict) return ;;
    train:--gate) words='router pregate' ;;
    train:--recipe) words='none paper' ;;
    train:--schedule) words='constant cosine linear' ;;
    train:--weigher) words='router pregate' ;;
    train:-m | train:--model | train:--data | train:--csv | train:--svg | train:-o | train:--out) files=1 ;;
    train:-t | train:--threads | train:-s | train:--seed | train:--level | train:--from | train:--steps | train:-b | train:--batch | train:--accumulate | train:--lr | train:--lr-end | train:--warmup | train:--weight-decay | train:--dropout | train:--clip | train:--balance | train:--sticky | train:--sticky-cache | train:--cache-bias | train:--cache-margin | train:--runners-up | train:--imitate | train:--kl | train:--freeze | train:--type | train:--checkpoint-every) return ;;
    load:--prompts | load:--api-key | load:-o | load:--out | load:--svg) files=1 ;;
    load:-p | load:--prompt | load:-s | load:--seed | load:--clients | load:--rate | load:--duration | load:--requests | load:--warmup | load:-n | load:--max-tokens | load:-m | load:--model | load:--temp | load:--timeout | load:--metrics) return ;;
    replay:--slots | replay:--ratio | replay:-o | replay:--format) return ;;
    esac
    if [ -n "$words" ] || [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "${words:-$options}" -- "$cur")
    elif [ -n "$files" ]; then
        # Names with blanks are quoted, folders get their slash.
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    fi
}
complete -F _pregate pregate
