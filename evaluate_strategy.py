#!/usr/bin/env python
"""What the last run's forecasts are worth as a strategy, against any other strategy (`dvc repro` first).

    python evaluate_strategy.py --baseline buy_and_hold
    python evaluate_strategy.py --baseline momentum --cost-bps 5 --plot
    python evaluate_strategy.py --from 2019-01-02 --to 2019-06-28 --ticker TSLA NVDA

Every strategy trades the test rows of data/predictions with the same limits and costs. A range or some tickers are
traded afresh: from cash to cash. Prints each strategy's figures, its difference to the baseline on the same sessions
with intervals and p-values corrected for their number, Deflated Sharpe for all trials that MLflow recorded, PBO, SPA.
Writes strategy.json, with --plot also tearsheet.html (one file, no script, no request) and tearsheet.png, and a run in
MLflow's experiment `reports`. Another strategy is tried with `dvc exp run -S strategy.max_weight=0.1`: that counts as a
trial, a report does not.

Exit status: 0 done, 2 wrong input, 130 interrupted.
"""

import argparse
import sys
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    new = argparse.ArgumentParser(
        prog="evaluate_strategy.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    new.add_argument(
        "--baseline", default="buy_and_hold", metavar="NAME", help="strategy to beat (default: buy_and_hold)"
    )
    new.add_argument(
        "--cost-bps",
        type=float,
        metavar="X",
        help="cost of one side in place of commission, spread and slippage; impact, borrow and the costs of tickers "
        "that strategy.costs names stay",
    )
    new.add_argument("--from", dest="first", metavar="YYYY-MM-DD", help="first session to trade in")
    new.add_argument("--to", dest="last", metavar="YYYY-MM-DD", help="last session to open positions in")
    new.add_argument(
        "--ticker", nargs="+", action="extend", default=[], metavar="SYMBOL", help="tickers to trade (default: all)"
    )
    new.add_argument("--plot", action="store_true", help="also draw the tearsheet, HTML and PNG")
    new.add_argument(
        "--output", type=Path, default=Path("metrics"), metavar="FOLDER", help="where files go (default: metrics)"
    )
    return new


def main() -> int:
    arguments = parser().parse_args()
    from fusion_alpha import config, stage  # after the help, which needs nothing of it
    from fusion_alpha.errors import InputError

    stage.set_up("evaluate_strategy")
    from fusion_alpha.report import View
    from fusion_alpha.tearsheet import command

    tickers = tuple(sorted({ticker.upper() for ticker in arguments.ticker}))
    view = View(arguments.baseline, arguments.first, arguments.last, tickers, arguments.cost_bps)
    try:
        command.evaluate(view, config.load(), arguments.output, arguments.plot)
    except InputError as error:
        stage.console.print("[bold red]evaluate_strategy.py stopped[/]", highlight=False)
        stage.console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
