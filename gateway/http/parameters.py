"""Query parameters beyond those that a route declares."""

from fastapi import Request

from gateway.errors import FieldFault, ValidationFailed


def refuse_odd_parameters(request: Request) -> None:
    """Refuse a query parameter that the specification does not declare, or that is there twice.

    Of two with one name, which counts would be anyone's guess; an unknown one is a typing error at best.
    """
    if not request.url.query:
        return
    operation = request.app.openapi()["paths"][request.scope["route"].path][request.method.lower()]
    declared = {parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "query"}
    seen: set[str] = set()
    for name, _ in request.query_params.multi_items():
        if name not in declared:
            raise ValidationFailed(faults=[FieldFault("This name is not known here.", parameter=name[:120])])
        if name in seen:
            raise ValidationFailed(faults=[FieldFault("This may be given only once.", parameter=name)])
        seen.add(name)
