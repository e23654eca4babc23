/* SPDX-License-Identifier: MIT
 * pregate: run Mixture-of-Experts models under a memory budget, and look at what that costs.
 *
 * Exit codes: 0 done, 1 failed, 2 called wrongly, 128 + n ended by signal n.
 */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

// clang-format off
static const struct cli_command commands[] = {
{"run", "MODEL", "write text",
 "Continues a prompt. The text comes on standard output as it is made; a line with the speed, the\n"
 "cache and the memory follows on standard error. Models larger than memory are fine: --memory\n"
 "bounds the whole process, and experts that do not fit are read when they are wanted.",
 "  pregate run model.gguf -p \"Once upon a time\"\n"
 "  pregate run model.gguf --memory 8G -f prompt.txt -n 256 --temp 0\n"
 "  pregate run model.gguf --memory 60% -p Hello --json --trace trace.json\n", cli_run},
{"chat", "MODEL", "talk with a model",
 "A conversation in the terminal, by the model's chat template. /help lists what can be said besides\n"
 "messages. Where standard input is no terminal each line is a message, and answers come plain.",
 "  pregate chat model.gguf --memory 8G\n"
 "  pregate chat model.gguf --system \"Answer in one sentence.\" --no-think\n"
 "  echo \"What is a mixture of experts?\" | pregate chat model.gguf --temp 0\n", cli_chat},
{"serve", "MODEL", "answer requests over HTTP",
 "Speaks as OpenAI's API does (/v1/chat/completions, /v1/completions, /v1/responses, /v1/models), as\n"
 "Anthropic's and Ollama's do, and as llama-server. Requests that run at once share each step, so that an\n"
 "expert is read once for all of them. One line on standard output says where the server listens; logs\n"
 "are on standard error. SIGTERM lets the requests under way finish; a second signal ends at once.",
 "  pregate serve model.gguf --memory 8G\n"
 "  pregate serve model.gguf --memory 8G -c 8192 --parallel 8 --port 9000 --api-key keys.txt\n"
 "  curl http://127.0.0.1:8080/v1/chat/completions -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'\n", cli_serve},
{"bench", "MODEL", "compare modes, budgets and policies on one model",
 "Runs every mode under every budget with every policy, repetitions interleaved, and measures the\n"
 "memory and disk bandwidths of the machine in between: what cannot be beaten.\n"
 "Times are those of the steps; sampling is left out.",
 "  pregate bench model.gguf --memory 2G,4G\n"
 "  pregate bench model.gguf --memory 4G --modes ondemand,lookahead --evict cycle,lru -r 5\n"
 "  pregate bench model.gguf --memory 4G --routes trace.jsonl -o html > bench.html\n", cli_bench},
{"inspect", "MODEL", "show what a GGUF file holds",
 "Reads the directory of the file, no weights.",
 "  pregate inspect model.gguf\n"
 "  pregate inspect model.gguf --tensors\n"
 "  pregate inspect model.gguf --json\n", cli_inspect},
{"plan", "MODEL", "show how a memory budget would be spent, and what speed to expect",
 "Makes the plan that `run` would make, without loading anything. The speeds follow from the\n"
 "measured bandwidths of memory and disk (about one second).\n"
 "With --simulate the model, or a named shape without any file, runs in virtual time on a machine that\n"
 "need not be there: the engine's own store and gates, and times by what the machine file says.",
 "  pregate plan model.gguf --memory 8G\n"
 "  pregate plan model.gguf --memory 8G -c 32768 --json\n"
 "  pregate plan switch-base-128 --simulate bench/machines/rtx4090d.json\n"
 "  pregate plan switch-base-128 --simulate bench/machines/a100.json --modes pregate --batches 1,4,16\n"
 "  pregate plan deepseek-v3-671b --simulate bench/machines/h200.json --cache 0.2 --evict lru\n", cli_plan},
{"tokenize", "MODEL", "print the token ids of a text",
 "Ids of the bytes as they are, on one line. No special token is added. Reads standard input when\n"
 "neither -p nor -f is given. Vocabulary-only files will do.",
 "  pregate tokenize model.gguf -p \"Hello world\"\n"
 "  pregate tokenize vocab.gguf -f text.txt\n", cli_tokenize},
{"logits", "MODEL", "write the logits of given tokens as a NumPy file",
 "Evaluates the tokens and writes a float32 array [n_tokens, n_vocab] as .npy. The context is just\n"
 "large enough and the KV cache float32, unless told otherwise.",
 "  pregate logits model.gguf --tokens 1,2,3 -o logits.npy\n"
 "  pregate logits model.gguf --tokens 1,2,3 --memory 2G --mode ondemand > logits.npy\n", cli_logits},
{"synth", "SHAPE", "make a model of a real shape with random weights",
 "The same seed gives the same bytes. Useful for measuring speed where no weights can be had.",
 "  pregate synth --list\n"
 "  pregate synth olmoe-7b -o olmoe-7b.gguf\n"
 "  pregate synth qwen3-30b --type Q8_0 --seed 7 -o big.gguf\n", cli_synth},
{"convert", "FOLDER", "make a GGUF of a Hugging Face folder",
 "Reads config.json, model.safetensors in one file or in shards, and the tokenizer's files. Tensors and\n"
 "keys are named as llama.cpp's converter names them. Memory is that of the vocabulary and some rows.",
 "  pregate convert Qwen3-30B-A3B -o qwen3.gguf\n"
 "  pregate convert switch-base-8 --type Q8_0 -o switch.gguf\n", cli_convert},
{"quantize", "MODEL", "write a model's matrices in another type",
 "Gains, biases and routers stay as they are. A type that is quantised already loses more.",
 "  pregate quantize model-f16.gguf --type Q4_K -o model-q4.gguf\n"
 "  pregate quantize model-f16.gguf --type Q4_0 --experts-only -o model.gguf\n", cli_quantize},
{"pack", "MODEL", "lay a model out so that an expert is one read",
 "The matrices of an expert lie side by side in the result, each from a page on. Every expert's matrix is\n"
 "a tensor of its own then, as in the first files of Mixtral: llama.cpp opens such files, and its versions\n"
 "since November 2024 do not run them. --undo merges the tensors again. The weights are the same.",
 "  pregate pack model.gguf -o model.packed.gguf\n"
 "  pregate pack model.packed.gguf --undo -o model.gguf\n", cli_pack},
{"sidecar", "MODEL", "make pre-gates out of the model's own routers",
 "Writes a sidecar whose pre-gate of block N is the router of block N + L. `hint` mode with it hints\n"
 "at what `lookahead` hints; trained pre-gates start from it.",
 "  pregate sidecar model.gguf -o model.pregate.gguf\n"
 "  pregate run model.gguf --pregate model.pregate.gguf --mode hint -p Hello\n", cli_sidecar},
{"tune", "MODEL", "distil pre-gates out of runs of a model",
 "Runs text through the model, which stays as it is and may be larger than memory, and fits pre-gates\n"
 "to what its routers say one block (--level) later. A part of the documents is held out; what is\n"
 "printed is measured on it, before (the router run early) and after. With --for decide --loss lm they\n"
 "learn from there on by the loss of the language model, through all of the model, whose experts are\n"
 "streamed; what is written is best on the part held out. Without -o the sidecar is pregate-MODEL\n"
 "beside MODEL, where `hint` mode finds it. Ctrl-C keeps a checkpoint for --resume.",
 "  pregate tune model.gguf --data text.txt\n"
 "  pregate tune model.gguf --data a.txt b.txt --memory 2G --tokens 50000 -o gates.gguf\n"
 "  pregate tune model.gguf --data text.txt --for decide --level 2\n"
 "  pregate tune model.gguf --data text.txt --for decide --loss lm --memory 3G -o gates.gguf\n", cli_tune},
{"eval", "MODEL", "measure how good a model's answers are",
 "Perplexity of a text, agreement of pre-gates with the routers, exact match and F1 of answers, or\n"
 "ROUGE of summaries; in the mode and under the budget that are asked for. Several texts run side by\n"
 "side. The KV cache is float32 unless told otherwise.",
 "  pregate eval model.gguf --data heldout.txt\n"
 "  pregate eval model.gguf --data heldout.txt --mode pregate --pregate sidecar.gguf --json\n"
 "  pregate eval model.gguf --task agree --data heldout.txt --lookahead 2\n"
 "  pregate eval model.gguf --task qa --data squad.json --max 100\n", cli_eval},
{"train", "MODEL", "train a model, with its routers or with pre-gates deciding",
 "Learns from text: documents with a line <|endoftext|> between them. MODEL gives the shape, the\n"
 "vocabulary and, unless --from says otherwise, the weights to start from. With --gate pregate the\n"
 "result is two files, OUT.gguf and OUT.pregate.gguf. Ctrl-C ends after the step under way and keeps\n"
 "a checkpoint; the same command with --resume goes on to the same bits.",
 "  pregate train model.gguf --data stories.txt --gate pregate -o tuned.gguf\n"
 "  pregate train model.gguf --data a.txt b.txt --from scratch --steps 3000 --lr 2e-3 --schedule cosine -o new.gguf\n"
 "  pregate train model.gguf --data stories.txt --freeze 'token_embd*,*.attn_*' -o tuned.gguf --resume\n", cli_train},
{"load", "URL", "measure a server under load",
 "Sends streamed requests to any server that speaks OpenAI's interface over HTTP, and measures times to\n"
 "the first token, between tokens and of whole replies, and tokens a second. --clients is a closed loop,\n"
 "--rate an open one, whose times count from when a request was due. A row in which a request failed is\n"
 "named, and the exit code is 1 then. Ctrl-C ends the row and prints what there is.",
 "  pregate load http://127.0.0.1:8080 --prompts prompts.txt --clients 1,4,16,64\n"
 "  pregate load http://127.0.0.1:8080 --prompts prompts.jsonl --rate 0.5,1,2 --duration 120 --svg load.svg\n"
 "  pregate load http://127.0.0.1:8080 -p Hello --requests 100 --ignore-eos -n 64 --json --out requests.jsonl\n"
 "  pregate load http://127.0.0.1:8080 --prompts prompts.txt --clients 8 --metrics pregate_expert_bytes_read_total\n",
 cli_load},
{"replay", "TRACE", "compare eviction policies on a recorded routing",
 "Plays a trace of expert choices through each policy and through the optimum, which knows the\n"
 "future (Belady). The whole trace in milliseconds; no model is needed.",
 "  pregate replay trace.jsonl\n"
 "  pregate replay trace.jsonl --ratio 0.5,1,2,3 --split\n"
 "  pregate replay trace.jsonl --slots 128,256,512 -o json\n", cli_replay},
};
// clang-format on

#define N_COMMANDS (sizeof(commands) / sizeof(commands[0]))

static void help(FILE *out)
{
    fputs("pregate " PG_VERSION ": Mixture-of-Experts models under a memory budget\n\n"
          "Usage: pregate COMMAND ... | pregate COMMAND --help | pregate --version\n\n",
          out);
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(out, "  %-9s %s\n", commands[i].name, commands[i].synopsis);
    fputs("\nFirst steps:\n"
          "  pregate plan model.gguf --memory 8G\n"
          "  pregate run model.gguf --memory 8G -p \"Once upon a time\"\n"
          "  pregate chat model.gguf --memory 8G\n",
          out);
}

static int command_unknown(const char *word)
{
    const char *names[N_COMMANDS + 1] = {0};
    for (size_t i = 0; i < N_COMMANDS; i++)
        names[i] = commands[i].name;
    const char *near = cli_nearest(word, names);
    if (near)
        return cli_usage("unknown command \"%s\"; did you mean %s?", word, near);
    return cli_usage("unknown command \"%s\"; `pregate --help` lists them", word);
}

static const struct cli_command *command_find(const char *name)
{
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (!strcmp(name, commands[i].name))
            return &commands[i];
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        help(stderr);
        return CLI_USAGE;
    }
    const char *word = argv[1];
    if (!strcmp(word, "--version") || !strcmp(word, "-V") || !strcmp(word, "version")) {
        puts("pregate " PG_VERSION);
        return cli_stdout_finish(CLI_OK);
    }
    const bool wants_help = !strcmp(word, "--help") || !strcmp(word, "-h") || !strcmp(word, "help");
    if (wants_help && argc == 2) {
        help(stdout);
        return cli_stdout_finish(CLI_OK);
    }
    if (wants_help)
        word = argv[2];
    const struct cli_command *cmd = command_find(word);
    if (!cmd)
        return word[0] == '-' ? cli_usage("unknown option \"%s\" before a command", word)
                              : command_unknown(word);
    struct cli_args args = {.help = true};
    if (!wants_help) {
        const int rc = cli_args_parse(&args, cmd, argc - 2, argv + 2);
        if (rc) {
            free(args.data.path);
            return rc;
        }
    }
    int code = CLI_OK;
    if (args.help) {
        cli_help_command(cmd);
    } else {
        cli_signals_install();
        code = cli_outputs_check(&args);
        if (!code)
            code = cmd->run(&args);
    }
    free(args.data.path);
    return cli_stdout_finish(code);
}
