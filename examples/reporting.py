"""A pipeline that reports its own run: `python examples/reporting.py`, then `runfold status @last`."""

import runfold

STEPS = {"collect": [], "analyse": ["collect"], "publish": ["analyse"]}


def main() -> None:
    with runfold.run("report", title="a small report", steps=STEPS, unit_name="page", units_total=3) as run:
        with run.step("collect") as step:
            step.output = {"rows": 120}
        with run.step("analyse", skill="analyst"):
            for page in range(3):
                with run.unit(page, action="GENERATING") as unit:
                    run.usage(model="small", input_tokens=900, output_tokens=40, cost_usd=0.0015)
                    if page == 1 and unit.attempt == 1:
                        unit.reject("the table is empty")
                if page == 1:
                    with run.unit(page, strategy="WIDER_QUERY"):
                        pass
        with run.step("publish"):
            run.artifact("report.md", b"# A small report\n", media_type="text/markdown")
        run.message = "3 pages, one of them twice"
    print(run.id)


if __name__ == "__main__":
    main()
